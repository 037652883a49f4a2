// Package embedded is a store.Store in a directory of a local file system:
// records and small objects in a Badger database, larger objects in
// append-only segment files beside it.
//
// # Directory
//
//	superblock     what the volume is: JSON with a checksum; only its key changes
//	lock           flock'ed while a process has the store open; holds its pid
//	witness        which groups were acknowledged, see witness.go
//	ballast        space held back for hard times, see ballast.go
//	records/       Badger
//	segments/      NNNNNNNN.seg
//
// # Keys in Badger
//
//	'r' | key                      a record, in a record frame (store/frame.go)
//	'o' | group 8B | number 4B     a small object, in an object frame
//	"mstate"                       the store's own state, see state.go
//	"mfiller", "manchor"           what compactions need, see compact.go
//
// Integers are big-endian, so objects lie in the order of their groups.
//
// # Segments
//
// A segment is a sequence of object frames, each on a 4 KiB boundary. A
// process appends only to segments it has made itself, so what an earlier one
// left behind is never mixed with what is being written. A deleted object is
// punched out and reads as zeros. A segment without any data is removed.
//
// # Invariants
//
//	(1) A batch is in Badger's log only when the segments that hold objects of
//	    its group and of earlier ones are durable (segments.sync).
//	(2) When a batch may go to another log file than something written before
//	    it, what was written before is durable first (wal.write). Within one
//	    log file Badger's replay ends at the first damage, so what survives is
//	    a prefix anyway.
//	(3) Every extent of a segment is in a group that is committed, or beyond
//	    the segment's mark, or in its list of exceptions (state).
//	(4) The last group in Badger is not below the one that the witness knows
//	    to be acknowledged.
//	(5) Groups below FirstGroup have no Put and no Commit ever again:
//	    FirstGroup is durable in the state before the first new write, and
//	    every group written to is less than groupSkip beyond it or beyond the
//	    last durable one (Store.near).
//
// # Badger's weak points, and what is done about them
//
// db.Sync leaves rotated logs unsynced: Barrier syncs the files itself. A
// damaged log is cut silently: the witness notices. A damaged table block is
// taken for "no such key" when Badger verifies it, and compaction then drops
// what follows it; so Badger's verification stays off, and each value's own
// checksum, which covers the key, finds the damage. Damaged keys look absent
// all the same. Tables are deleted that a damaged manifest does not list: it is
// looked at first. The tables are verified before Badger opens them where it
// would not bear it, and in full, in the background, once a mount. A full disk kills the
// process with SIGBUS: space for all that it may write is kept free, and log
// files are allocated when they begin. It keeps what was deleted: compactions
// are forced when it is worth it (compact.go). Its value log is never used.
//
// Lock order: Store.life, Store.commitMu, Store.barrierMu, wal.syncMu,
// wal.mu; segments.mu, segmentFiles.mu, space.mu and witness.mu are taken
// last and hold no other.
package embedded
