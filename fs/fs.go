// Package fs mounts views of a volume: it answers the kernel's FUSE requests
// with the operations of package inode and shows snapshots and forks as the
// virtual directories .snapshots and .forks. Only this package knows FUSE.
//
// A mount is made in two steps, because the process that asks for one need
// not be the one that serves the store: Attach, in the asking process and its
// mount namespace, opens /dev/fuse and mounts; Serve, in the serving process,
// answers on the descriptor.
//
// # Node ids
//
// The kernel knows an inode by a node id that we choose:
//
//	| door 24 bits | virtual 1 bit | inode 39 bits |
//
// A door is a way into a view in this mount. It is there because Linux gives
// a directory one path per mount: what two paths lead to needs two node ids,
// else look-ups fail with ESTALE when a rename happens elsewhere, and working
// directories jump. So /.snapshots/S/a and /a/.snapshots/S, one directory of
// one view, are two nodes with the same st_ino.
//
//	door        | leads to                            | number
//	own         | the view that is mounted            | 0
//	stable      | a snapshot or fork, entered by the  | the view's number, 1 to 2^23 - 1
//	            | virtual directory of a root         |
//	passing     | D/.snapshots/S of another directory | above; given while the kernel knows
//	            | D                                   | a node behind it
//
// A live view has exactly one door, whatever the paths to it: two would mean
// two page caches for one file. A fork is found in the .forks where it is
// listed and in those of the snapshots of the fork that lists it, and of these
// paths Linux knows one at a time. Who uses two of them at once, while others
// rename across directories, must expect an ESTALE now and then (5 % of the
// stats in a test made for it); who uses the place where it is listed, never.
//
// With the virtual bit set the node is the virtual directory .snapshots of
// the directory of that inode number, or, with inode number 0, the .forks of
// the view's root. The root of the mount is door 0, inode 1, which is
// FUSE_ROOT_ID.
//
// What stat(2) tells as inode number is not the node id but
//
//	| virtual 1 bit | view 23 bits | inode 40 bits |
//
// with view 0 for the mount's own view, so a view mounted alone shows plain
// inode numbers and no two views show equal ones.
//
// # What the kernel may cache
//
// Names and attributes of a view change only through the mount that serves
// it, so the kernel keeps them for long. Names in .snapshots and .forks also
// change by other ways (a command, another mount): they are asked for each
// time. When a view is deleted, the kernel is told to forget what it knows of
// it, and all that it still asks for is ESTALE.
//
// Lock order: doorTable.mu, then process.mu. A nodeShard.mu and all other
// mutexes are taken last and alone. No lock is held while an operation of
// package inode or snap, or a notification to the kernel, runs.
package fs
