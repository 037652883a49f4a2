package main

var snapshotCreateVerb = createVerb("snapshot create", "Take a snapshot", `
The snapshot holds the whole fork that TARGET lies in, at this moment. In the
mount it is MOUNTPOINT/.snapshots/NAME, and DIR/.snapshots/NAME in every
directory. "mkdir MOUNTPOINT/.snapshots/NAME" does the same. With --ttl it expires:
see "dcfs snapshot expire".

Example:
  dcfs snapshot create /mnt monday
  dcfs snapshot create --ttl 2d /mnt before-the-upgrade
  dcfs snapshot create ~/volume@try monday`, opSnapshotCreate)

var snapshotListVerb = listVerb("snapshot list", "List the snapshots of a fork", `
The oldest comes first. REFER is what a snapshot shows, USED what deleting it
alone would free, WRITTEN what has been written since the one before it and is in
it. These are bytes of file data, directories and attributes as they are stored;
what cp has shared between files counts for each of them, but for once in USED.
"-" is not known and would take long to count: --count does so, once for all.
EXPIRES is when a snapshot is deleted unasked, HOLDS the tags that hold it.

Example:
  dcfs snapshot list /mnt`, opSnapshotList, []string{"REFER", "USED", "WRITTEN"}, expiresColumn, holdsColumn)

var snapshotRenameVerb = renameVerb("snapshot rename", "Give a snapshot a new name", `
Example:
  dcfs snapshot rename /mnt monday before-the-upgrade`, opSnapshotRename)

var snapshotDeleteVerb = deleteVerb("snapshot delete", "Delete snapshots", `
Forks that were made from a snapshot stay as they are. Where a snapshot is
mounted by itself it is gone at once, and the mount is good for umount only. One
that is held stays: see "dcfs snapshot release".
"rmdir MOUNTPOINT/.snapshots/NAME" does the same. With -n nothing is deleted: it
says what deleting these together would free.

Example:
  dcfs snapshot delete /mnt monday tuesday`, opSnapshotDelete, opSnapshotFrees)
