// Package snap makes a volume of DCDBs one that has snapshots and forks: it
// decides which head a view sees, what a change must save, and when what was
// dropped is free.
//
// A fork is a line of the volume's history with a counter. A snapshot is a name
// for a counter that the fork has left behind; a fork's origin is a counter of
// its parent. kept(f) are the counters of f's snapshots, those that are origins
// of forks, and f's own origin.
//
// # Records, version 1
//
// Fork, place, inode, counter, group: 8 bytes big-endian each; ^counter has its bits
// inverted, so that the newest comes first. Values begin with a version byte;
// integers in them are unsigned varints.
//
//	'v'                                  volume: next fork, next view number
//	'f' fork                             fork: see Fork.encode
//	'n' fork counter                     snapshot, or unnamed origin of forks, and
//	                                     the bytes it refers to, if known
//	'k' fork counter                     tags that hold a snapshot
//	'u' fork counter                     when a snapshot expires; counter 0: the fork
//	'p' fork                             its policy for automatic snapshots
//	'h' place inode                      the head: the newest state of an inode
//	's' place inode ^counter             a saved head
//	'c' place counter inode              index of heads and saved heads
//	'd' place death since group number   dead list: a number of entries
//	't' place death since                count and bytes of these entries
//	'b' fork group number                a tree that was dropped as a whole
//	'r' fork number                      a reclaim that is to be done
//	'o' place inode                      the head has records beyond the file's end
//	'x' object                           extra references of an object
//	'w' number                           view numbers to give again, oldest first
//	'e' group number                     freed objects, see package dcdb
//
// A fork's place is its own number, or the one of a parent that was merged with it.
// After a merge it has two of them, and what is at one moves to the other: of the
// heads of an inode at both the one with the higher counter counts.
//
//	entry | 1 | object        a reference
//	      | 2 | inode         a saved head of this fork; its counter is since
//	      | 3 | inode         a head that the fork had inherited
//	      | 4 | inode | bytes the same, with its size
//
// # Invariants
//
//	(1) Each entry (since, death) of a fork's dead list is needed in it: some
//	    k of kept(f) has since <= k < death. Each saved head is on it once.
//	(2) An object has one reference in live or cut states, counted once per line
//	    of succession, or one entry on a list, and one more for each of its
//	    extra references.
//	(3) A reference without death stands in the newest state of one inode and
//	    fork; a fork without live state has no entry with a death above its
//	    newest kept counter.
//	(4) A head that is on no list and has a counter above the newest kept one is
//	    in a fork with a live state.
//	(5) A deleted state is alone only for an inode that was inherited.
//	(6) An index record lives exactly as long as its head.
//	(7) The sums say what the dead lists hold.
//	(8) The newest state of an inode in a fork is a head, all older ones are
//	    saved, but while they move.
//	(9) A record 'o' stands for each head 'h' with dcdb's flag 8, and for none
//	    else.
//	(10) What a snapshot's record says that it refers to is the bytes of the
//	    heads that it shows, and of the objects for each reference in them.
//	(11) What is held is a snapshot that has a name; what expires is one, or a fork
//	    with a live state, and so is what has a policy.
//
// What a Volume and its Forks know in memory is guarded by the Space's lock.
package snap
