// Package sealed is a store.Store that keeps nothing in the clear: it seals the
// bytes of every object and the value of every record before they go to the
// store below it, and opens them when they come back.
//
// # Boxes, version 1
//
// What is sealed lies in boxes of XAES-256-GCM (C2SP): AES-256-GCM of the
// standard library with a nonce of 24 bytes, of which 12 choose the key.
//
//	box    | random 20B | sealed bytes | tag 16B |
//	nonce  | random 20B | index 4B |
//	key    AES-CMAC of the volume's key over nonce bytes 0 to 11, twice
//	record | box, index 0 |
//	object | a box, with its index, for each 4 KiB; all have the same random |
//
// Integers are big-endian. What is authenticated beside the bytes says where
// they belong, so nothing opens in another place:
//
//	record | 'r' | key |
//	object | 'o' | kind 1B | group 8B | segment 4B | offset 4B | length 4B |
//
// # Nonces
//
// An object gets 160 random bits, a record 160 others each time it is written,
// and no index comes twice in an object. No counter is kept: a store that is
// copied, or goes back to a state before a crash, would count the same numbers
// for other bytes. For 2^64 objects and records the odds that any two of them
// share their nonces are below 2^-32; with the 96 bits of plain AES-GCM that is
// so for 2^32, which a busy volume writes in weeks.
//
// # The volume's key
//
// The key is 32 random bytes that never change. The superblock has it wrapped:
// sealed in a box, by a key that is made of the user's passphrase or key file,
// see wrap.go. Whoever changes the passphrase changes that line only.
//
// # What is not hidden, and what is not noticed
//
// Keys of records stay as they are, since their order matters; they are numbers
// of forks, inodes, counters and objects, without any name. So who reads the
// store sees how many objects and records there are, how long each is, when it
// was written and which belong to one inode or snapshot. Who writes to it can
// leave out records, or put back a record as it was earlier, or all of the store.
package sealed
