package embedded

import (
	"time"

	"dcfs/dcdb/store"
)

const (
	defaultMemTableBytes   = 32 << 20
	minMemTableBytes       = 4 << 20
	defaultObjectThreshold = 16 << 10
	maxObjectThreshold     = 256 << 10
	defaultSegmentBytes    = 1 << 30
	objectBytes            = 16 << 20
	valueBytes             = 512 << 10
	keyBytes               = 1 << 10
)

// Options says how to open a store. The zero value is sound.
//
// There is no size of Badger's block and index caches among them: tables are
// kept uncompressed, so Badger reads them in place through mmap, and the
// kernel's page cache is the cache. It costs no anonymous memory.
type Options struct {
	// MemTableBytes is the size of one Badger memtable; up to three are in
	// memory, a quarter larger each than this. It limits a batch to about an
	// eighth of it. Default 32 MiB, a batch of 50,000 records; less on a file
	// system below 2 GiB.
	MemTableBytes int64

	// ObjectThreshold is the size from which an object goes to a segment.
	// Default 16 KiB. BenchmarkThreshold, groups of 8 MiB with a barrier each,
	// ext4 on a virtio disk, 2 CPUs, MB/s:
	//
	//	object    4 KiB  8 KiB  16 KiB  32 KiB  64 KiB
	//	Badger      110    157     135     187     170
	//	segment     254    266     366     676     627
	//
	// and what compaction rewrites comes on top of Badger's. But a segment
	// gives an object one block more than it has, which is twice its size at
	// 4 KiB and a quarter more at 16 KiB; its delete is a punch of 75 us or
	// more, Badger's 3 us; and a group with objects in a segment takes one
	// sync more.
	ObjectThreshold int

	// SegmentBytes is the size at which a new segment is begun. Default 1 GiB.
	SegmentBytes int64

	// ReserveBytes is the size of the ballast. By default it is what the
	// background work of the store may take and two memtables for deleting:
	// 160 MiB for a small store, 500 MiB for a large and busy one, but at most
	// a sixteenth of the file system. Negative: none.
	ReserveBytes int64

	// LockWait is how long to wait for another process that has the store
	// open: a server that is just ending.
	LockWait time.Duration

	// VolumeOptions become Superblock.Options when a volume is made.
	VolumeOptions map[string]string

	// NewKey makes Superblock.Key when a volume is made. Default: none.
	NewKey func(u store.UUID) (string, error)

	// Unlock is shown the superblock before anything else of a volume is opened.
	// Its error ends the open, and nothing has changed. Without it a volume that
	// has a key is not opened.
	Unlock func(sb store.Superblock) error

	// Now tells the time, for Superblock.Created. Default time.Now.
	Now func() time.Time

	// Log gets a line about what the user should know, from any goroutine.
	// Default: nothing.
	Log func(format string, args ...any)
}

// withDefaults fills in what is not set, for a file system of total bytes.
func (o Options) withDefaults(total uint64) Options {
	if o.MemTableBytes == 0 {
		o.MemTableBytes = min(defaultMemTableBytes, int64(total/64))
	}
	o.MemTableBytes = max(o.MemTableBytes, minMemTableBytes)
	if o.ObjectThreshold == 0 {
		o.ObjectThreshold = defaultObjectThreshold
	}
	o.ObjectThreshold = min(o.ObjectThreshold, maxObjectThreshold)
	if o.SegmentBytes == 0 {
		o.SegmentBytes = defaultSegmentBytes
	}
	o.SegmentBytes = max(o.SegmentBytes, 2*objectBytes)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	return o
}

// badgerBatchBytes and badgerBatchRecords are what Badger takes in one
// transaction, see checkAndSetOptions in its db.go.
func (o Options) badgerBatchBytes() int64 { return 15 * o.MemTableBytes / 100 }

func (o Options) badgerBatchRecords() int64 { return o.badgerBatchBytes() / 96 }

// stateRecords is room for the state record and Badger's own end mark.
const stateRecords = 8

// limits leaves a tenth of Badger's bytes for the state record. 32 bytes for each
// record cover what Badger counts (12), the frame (5) and the key's prefix.
func (o Options) limits() store.Limits {
	return store.Limits{
		BatchRecords: int(min(50_000, o.badgerBatchRecords()-stateRecords)),
		BatchBytes:   int(o.badgerBatchBytes() * 9 / 10),
		KeyBytes:     keyBytes,
		ValueBytes:   int(min(valueBytes, o.badgerBatchBytes()/2)),
		ObjectBytes:  objectBytes,
	}
}
