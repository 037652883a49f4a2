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
// A live view has exactly one door: two would mean two page caches for one
// file. So it also has one path in a mount, that where it is listed. The
// .forks of a snapshot that is reached through its fork's .snapshots shows,
// under the same names, what the .forks of its fork lists at the moment, as
// symbolic links: /.snapshots/S/.forks/F leads to ../../../.forks/F. A fork
// that was moved to another listing is found there. mkdir(2) by that path
// makes the fork and is answered with a stand-in: a directory that has the
// attributes of the fork's root and takes chmod and chown for it, but is
// another node, whose place the link takes from the next look-up on (but for
// the one look-up of mkdir -m and install -d, which open what they made
// without following links). A link can be neither removed nor renamed: rmdir
// is ENOTDIR, unlink, rename and chown -h are EPERM, all of which is done
// where the fork is listed. A program that changes into what it made, as
// mkdir -p does for something in a fork that is yet to be made there, is in
// the stand-in, where it finds nothing: ESTALE; the fork is made by then. In
// a snapshot that is mounted alone forks have no other path: its .forks shows
// them as directories.
//
// With the virtual bit set the node is the virtual directory .snapshots of
// the directory of that inode number, or, with inode number 0, the .forks of
// the view's root; or in a snapshot, where there is no .snapshots, the link
// to the fork of that view number, or with the bit below its stand-in. The
// root of the mount is door 0, inode 1, which is FUSE_ROOT_ID.
//
// rename(2) of what is in a virtual directory, or to there, is EPERM unless it
// renames a snapshot or fork, or moves a fork to another .forks. It is never
// EXDEV, as between real directories of different views: mv(1) would go on
// with mkdir, copy and delete, that is make snapshots and forks of other
// things and delete the first ones.
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
// time. ACLs it keeps, also that there is none, until it asks for attributes,
// lists the directory or changes the inode. When a view is deleted, the kernel is told to forget what it knows of
// it, and all that it still asks for is ESTALE.
//
// Lock order: doorTable.mu, then process.mu. A nodeShard.mu and all other
// mutexes are taken last and alone. No lock is held while an operation of
// package inode or snap, or a notification to the kernel, runs.
package fs
