package main

var forkCreateVerb = createVerb("fork create", "Fork a volume, a fork or a snapshot", `
The fork begins as what TARGET shows, and can be changed. In the mount it is
MOUNTPOINT/.forks/NAME; it can be mounted by itself as STORE@NAME. "mkdir
MOUNTPOINT/.forks/NAME" does the same. A fork of a snapshot is listed in the
snapshot's fork. With --ttl it expires: see "dcfs fork expire".

Example:
  dcfs fork create /mnt try
  dcfs fork create /mnt/.snapshots/monday hotfix
  dcfs fork create --ttl 8h /mnt job-17
  dcfs fork create ~/volume@try again`, opForkCreate)

var forkListVerb = listVerb("fork list", "List the forks of a volume or a fork", `
Forks of forks are listed with their path names, as in try/again. REFER is what a
fork shows, SHARED how much of that is still what it was made from, OWN what it
has written itself, with what only its snapshots still show. "-" is not known
and would take long to count: --count does so, once for all.

Example:
  dcfs fork list /mnt`, opForkList, []string{"REFER", "SHARED", "OWN"}, expiresColumn)

var forkRenameVerb = renameVerb("fork rename", "Give a fork a new name, or list it elsewhere", `
What a fork descends from does not change.

Example:
  dcfs fork rename /mnt try tried
  dcfs fork rename /mnt try/again again`, opForkRename)

var forkDeleteVerb = deleteVerb("fork delete", "Delete forks, with all that is in them", `
A fork that lists forks of its own can't be deleted before these are deleted
or renamed to elsewhere, or together with them by -r. One that is mounted by
itself must be unmounted first, and what holds its snapshots released. Forks
that descend from it and are listed elsewhere stay as they are. "rmdir
MOUNTPOINT/.forks/NAME" does the same.

Example:
  dcfs fork delete /mnt try/again try`, opForkDelete, "")
