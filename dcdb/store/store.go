// Package store is the object store below the DCDBs of a volume: immutable
// objects, and small keyed records that change in atomic batches. Nothing
// above this package knows which engine keeps them.
//
// # Objects
//
// An object is written once by Put and never changed. The store assigns its
// ID: the number of the commit group that put it and where it lies, so that
// no index stands between a mapping table and the bytes. An ID is never given
// twice, not even after a crash: group numbers only grow, and a store that is
// opened again tells by LastGroup and FirstGroup which numbers are spent.
//
// # Records
//
// A record is a key and a value. All records change by Commit, one batch per
// commit group, and a batch is applied whole or not at all.
//
// # Order
//
// Commit of group N makes every object that was put for a group <= N durable
// before N's batch can be. Barrier makes every batch that Commit returned for
// durable. After a crash a store holds the batches of groups up to some N, N
// not below the last one that Barrier acknowledged, and no others; objects of
// groups after N are erased before the store can be written again.
//
// # Integrity
//
// Every object and record carries a checksum over its identity (kind and ID,
// or key) and its bytes, verified on every read. What does not verify is
// ErrCorrupt, never data.
package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// Sentinels of every implementation; match them with errors.Is. An error that
// matches none of them is an I/O error of the engine.
var (
	// ErrNotFound: an object that does not exist or was deleted. An absent
	// record is not an error, see Records.Get.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the batch's fence is not the store's. Nothing was applied,
	// and another process owns the records now.
	ErrConflict = errors.New("conflict: another process owns this store now")
	// ErrRetry: nothing was applied for a passing reason; the same call may
	// succeed later.
	ErrRetry = errors.New("store busy, try again")
	// ErrFull: no space. Nothing was applied.
	ErrFull = errors.New("no space left in the store")
	// ErrCorrupt: bytes that do not match their checksum, or that this
	// version can't read.
	ErrCorrupt = errors.New("corrupt")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store closed")
	// ErrTooBig: a batch, key, value or object above Limits.
	ErrTooBig = errors.New("above the store's limits")
)

// BlockBytes is the unit in which an object is checksummed and in which large
// objects are placed: reads that begin and end on multiples of it verify
// nothing more than they return.
const BlockBytes = 4096

// Kind says what an object is. It is part of what the checksum covers, so a
// page read where a content is expected is ErrCorrupt.
type Kind uint8

// The kinds of objects. The numbers are on disk.
const (
	KindContent Kind = 1 // file data, or a large xattr
	KindPage    Kind = 2 // a node of a DCDB's tree
	KindTable   Kind = 3 // a node of a DCDB's mapping table
)

// ID names an object for ever. The zero ID names none.
type ID struct {
	Group uint64 // the commit group that put it; never 0
	Seg   uint32 // 0: among the records; else the number of a segment
	Off   uint32 // Seg 0: its number within the group; else its first block in the segment
	Len   uint32 // bytes, as given to Put; never 0
}

// IsZero reports whether id names no object.
func (id ID) IsZero() bool { return id == ID{} }

func (id ID) String() string {
	return fmt.Sprintf("%d.%d.%d+%d", id.Group, id.Seg, id.Off, id.Len)
}

// Compare orders IDs by group, then segment, offset and length: -1, 0 or 1.
func (id ID) Compare(o ID) int {
	for _, p := range [...][2]uint64{
		{id.Group, o.Group}, {uint64(id.Seg), uint64(o.Seg)},
		{uint64(id.Off), uint64(o.Off)}, {uint64(id.Len), uint64(o.Len)},
	} {
		if p[0] < p[1] {
			return -1
		} else if p[0] > p[1] {
			return 1
		}
	}
	return 0
}

// Append appends id's encoding to b: four unsigned varints.
func (id ID) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, id.Group)
	b = binary.AppendUvarint(b, uint64(id.Seg))
	b = binary.AppendUvarint(b, uint64(id.Off))
	return binary.AppendUvarint(b, uint64(id.Len))
}

// Record is a key and its value.
type Record struct {
	Key, Value []byte
}

// Batch is the change of the records that one commit group makes. A key
// stands in it at most once, in Puts or in Deletes. Deleting an absent key is
// no error.
type Batch struct {
	Group   uint64 // above that of every earlier batch
	Fence   uint64 // must be the Fence that the store reported, else ErrConflict
	Puts    []Record
	Deletes [][]byte
}

// Limits are what an engine bears. They do not change while it is open.
type Limits struct {
	BatchRecords int // puts and deletes of one batch
	BatchBytes   int // keys and values of one batch, and 32 bytes for each record
	KeyBytes     int
	ValueBytes   int
	ObjectBytes  int
}

// Usage is the space of the store, for statfs.
type Usage struct {
	TotalBytes uint64 // of the file system the store lies on
	FreeBytes  uint64 // that the store may still use, its reserve not counted
	UsedBytes  uint64 // disk blocks that the store itself takes
}

// Objects is the half of a store that keeps immutable objects. All methods
// may be called concurrently.
type Objects interface {
	// Put stores parts as objects of commit group group, which must be above
	// the last committed one, and returns their IDs in order. It keeps no
	// reference to parts. Once it has returned they can be read; they are
	// durable once a Commit of group or a later one is. On an error none of
	// them can be relied on, and what was written is erased after the next
	// open. An empty part is an error.
	Put(ctx context.Context, group uint64, kind Kind, parts [][]byte) ([]ID, error)

	// PutMade is Put of objects whose bytes depend on their IDs. There are
	// len(sizes) of them, and part returns the one at i, sizes[i] bytes long,
	// once its ID is known. It is called in any order, at most once for each,
	// and must not call the store.
	PutMade(ctx context.Context, group uint64, kind Kind, sizes []int, part func(i int, id ID) []byte) ([]ID, error)

	// Read fills p with the object's bytes from off on. ErrNotFound if the
	// object does not exist, ErrCorrupt if what lies there is not what was
	// put or p reaches past its end.
	Read(ctx context.Context, id ID, kind Kind, off int, p []byte) error

	// Delete erases objects and gives their space back. What does not exist
	// is skipped: erasing twice is harmless. It is durable once a batch is that
	// is committed later; a crash before that may bring any of them back.
	Delete(ctx context.Context, ids []ID) error

	// List returns up to limit IDs of existing objects above after, in
	// order. It is slow, for checks only.
	List(ctx context.Context, after ID, limit int) ([]ID, error)
}

// Records is the half of a store that keeps small keyed records. All methods
// may be called concurrently.
type Records interface {
	// Get returns the values of keys, nil for one that is absent, from one
	// consistent state. A stored empty value is returned as empty, not nil.
	// The caller may keep the values and must not change them.
	Get(ctx context.Context, keys ...[]byte) ([][]byte, error)

	// Scan returns up to limit records with from <= key < to, in order of
	// their keys, from one consistent state. An empty to is no bound. The
	// next call continues at the last key with a zero byte appended.
	Scan(ctx context.Context, from, to []byte, limit int) ([]Record, error)

	// Commit applies b atomically. Once it has returned, Get and Scan show
	// it. The records' bytes must not change until it returns.
	Commit(ctx context.Context, b *Batch) error

	// Barrier returns when every batch that was committed before the call is
	// durable.
	Barrier(ctx context.Context) error
}

// Compacter is a Store that may take space for what was deleted until it is
// told to give it back, or finds time to.
type Compacter interface {
	// Compact gives back the space of all that was deleted before the call,
	// as far as the engine can. Everything else may go on meanwhile. It ends
	// early with ErrClosed if the store is closed.
	Compact(ctx context.Context) error
}

// Scrubber is a Store that can read all that it keeps, to find what is damaged.
type Scrubber interface {
	// Scrub reads and verifies everything that was durable before the call, as it
	// lies in the engine; everything else may go on meanwhile. It calls read after
	// each piece with its size: that may wait, and an error of it ends the scrub. It
	// calls problem for whatever does not verify, with an ErrCorrupt, or can't be
	// read. Its own error is why not everything was read.
	Scrub(ctx context.Context, read func(bytes int) error, problem func(error)) error
}

// Store is an open object store. One process has it open at a time.
type Store interface {
	Objects
	Records

	Super() Superblock
	// LastGroup is the number of the last committed batch, 0 if none.
	LastGroup() uint64
	// FirstGroup is the lowest group number that was never given out when
	// the store was opened.
	FirstGroup() uint64
	// Fence is what batches must carry.
	Fence() uint64
	Limits() Limits
	Usage(ctx context.Context) (Usage, error)
	// Close ends the use of the store; it implies Barrier.
	Close() error
}
