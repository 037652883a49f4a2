// Package dcdb keeps distributed consistent databases: one DCDB is the
// database of one inode, a directory's entries or a file's data. A Space holds
// all DCDBs of a volume in memory as far as they are in use, gathers their
// changes in commit groups and writes the groups to a store, one after the
// other. What a head's history means, which heads a view sees and what becomes
// of what is dropped is not decided here but by the Rules that package snap
// brings.
//
//	Space ── node ── state ── mapping table ── pages ── items ── pieces ── contents
//	          one     attributes   root in the    B+ tree,         of a      immutable
//	        a DCDB    and tree     head, nodes    by key        file record   objects
//
// A tree's pages refer to each other by page number. A page that changes
// becomes a new object and keeps its number: only the mapping table, from
// numbers to objects, changes. Page 0 is the root of the tree.
//
// # Format, version 1
//
// Integers are unsigned varints, as short as they can be (encoding/binary);
// zigzag where signed. Bytes are preceded by their length. A ref is an object
// and the counter since which its slot uses it:
//
//	ref     | id: group, segment, offset, length | since |
//	pageref | id | since<<1 + 1 if items of the page have object pieces |
//
//	head    | version 1B | flags 1B | changed | born |
//	        | mode | uid | gid | nlink | rdev | size | alloc |
//	        | atime, mtime, ctime, btime: seconds (signed), nanoseconds |
//	        | parent | name | next cookie | attribute flags | payload |
//	          flag 1: the DCDB is deleted, nothing follows born
//	          flag 2: the payload is the tree's only page, inline
//	          flag 4: the payload is a mapping table
//	          flag 8: there are records beyond size, not yet dropped
//	table   | pages ever numbered | depth | node |
//	node    | n | n times: slot (each above the last), ref or pageref |
//	page    | 1B: 0 leaf, 1 inner | n | items, or n keys and n+1 page numbers |
//	item    | key | value | n | n pieces |
//	piece   | at | n | 0 hole, 1 object, 2 inline | since |
//	        |   object: id, offset in it; inline: bytes |
//
// An item's key is its kind and the key within the kind: 'e' and a name is a
// directory entry, 'r' and a record number, 8 bytes big-endian, a record of
// file data, 'x' and a name an xattr, 'l' a further link, 't' a symlink's
// target. A value of more than MaxInlineValue bytes is kept as a piece.
//
// A table object is a node whose slots lead to nodes of the level below, or to
// pages on level 0. The node that a head holds is the root.
//
// # Invariants
//
//	(1) The keys of a page are in order, without doubles, and lie between the
//	    keys of its parent around it.
//	(2) Each page number in a table is reached from page 0 exactly once, and
//	    each one reached is in the table.
//	(3) A ref's since is not above the head's changed, and not below born.
//	(4) Pieces lie within their record; each lies within its content.
//	(5) Alloc is the number of 4 KiB blocks that pieces other than holes
//	    cover, in bytes.
//	(6) A DCDB without flag 8 has no piece beyond its size.
//
// Lock order: Space.mu, then the cache's mutex or epochs.mu. No store call
// and no wait under Space.mu.
package dcdb
