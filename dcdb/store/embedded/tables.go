package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	badgertable "github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"

	"dcfs/dcdb/store"
)

// Badger's tables carry checksums, but what Badger does about a wrong one is
// to end the process, or to take keys for absent. So they are verified here.
//
// # Format of a table file, of Badger v4
//
// Integers are big-endian.
//
//	table | blocks | index | its length 4B | checksum | its length 4B |
//	block | entries, and where they begin | checksum | its length 4B |
//
// The index is a flatbuffer with each block's place and first key, a checksum
// a protobuf. A key ends in 8 bytes of version.
const keyVersionBytes = 8

type table struct {
	f     *os.File
	index *fb.TableIndex
}

// keyRange is a range of keys of Badger; to is in it, nil is no bound.
type keyRange struct{ from, to []byte }

// tableNames returns the files of the tables that Badger's manifest lists; of
// others, unfinished or given up, Badger rids itself when it opens.
func tableNames(dir string) (names []string, err error) {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a new database
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	defer recovered(f.Name(), &err)
	m, end, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir).WithLogger(nil))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", f.Name(), store.ErrCorrupt, firstLine(err.Error()))
	}
	if err := checkManifestEnd(f, end); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	for id := range m.Tables {
		names = append(names, badgertable.NewFilename(id, dir))
	}
	slices.Sort(names)
	return names, nil
}

// checkManifestEnd looks at what a manifest has behind the last change that can be
// read. Badger takes it for one that a crash cut off, and then deletes the tables of
// which it speaks. A change that is all there has a damaged length.
//
//	change | its length 4B | CRC-32C 4B | a protobuf
func checkManifestEnd(f *os.File, at int64) error {
	b, err := io.ReadAll(io.NewSectionReader(f, at, math.MaxInt64-at))
	if err != nil {
		return err
	}
	const head = 8
	if len(b) <= head {
		return nil
	}
	want, got := binary.BigEndian.Uint32(b[4:]), uint32(0)
	for i := head; got != want; i++ { // the first change is empty
		if i == len(b) {
			return nil
		}
		got = crc32.Update(got, y.CastagnoliCrcTable, b[i:i+1])
	}
	return fmt.Errorf("length of a change at %d: %w", at, store.ErrCorrupt)
}

// openTable opens a table file and verifies its index.
func openTable(name string) (_ *table, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	defer recovered(name, &err)
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	end := info.Size()
	sum, end, err := readTail(f, end)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	index, end, err := readTail(f, end)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := verifySum(index, sum); err != nil {
		return nil, fmt.Errorf("%s: index: %w", name, err)
	}
	t := &table{f, fb.GetRootAsTableIndex(index, 0)}
	for i := range t.blocks() {
		var o fb.BlockOffset
		if t.index.Offsets(&o, i); int64(o.Offset())+int64(o.Len()) > end || o.KeyLength() < keyVersionBytes {
			return nil, fmt.Errorf("%s: index of block %d: %w", name, i, store.ErrCorrupt)
		}
		o.KeyBytes() // is where it says
	}
	return t, nil
}

// readTail reads what ends at end with its length, and returns where it
// begins.
func readTail(f *os.File, end int64) (b []byte, begin int64, err error) {
	var n [4]byte
	if end < int64(len(n)) {
		return nil, 0, store.ErrCorrupt
	}
	end -= int64(len(n))
	if _, err := f.ReadAt(n[:], end); err != nil {
		return nil, 0, err
	}
	size := int64(binary.BigEndian.Uint32(n[:]))
	if size > end {
		return nil, 0, fmt.Errorf("length %d at %d: %w", size, end, store.ErrCorrupt)
	}
	b = make([]byte, size)
	_, err = f.ReadAt(b, end-size)
	return b, end - size, err
}

func verifySum(b, sum []byte) error {
	var c pb.Checksum
	if proto.Unmarshal(sum, &c) != nil || c.Algo != pb.Checksum_CRC32C || y.VerifyChecksum(b, &c) != nil {
		return fmt.Errorf("wrong checksum: %w", store.ErrCorrupt)
	}
	return nil
}

func (t *table) close() { t.f.Close() }

func (t *table) blocks() int { return t.index.OffsetsLength() }

func (t *table) blockBytes(i int) int {
	var o fb.BlockOffset
	t.index.Offsets(&o, i)
	return int(o.Len())
}

// verify reads block i.
func (t *table) verify(i int) (err error) {
	defer recovered("block", &err)
	var o fb.BlockOffset
	t.index.Offsets(&o, i)
	b := make([]byte, o.Len())
	if _, err := t.f.ReadAt(b, int64(o.Offset())); err != nil {
		return err
	}
	at := len(b) - 4
	sumAt := at - int(binary.BigEndian.Uint32(b[at:]))
	return verifySum(b[:sumAt], b[sumAt:at])
}

// keys is the range of the keys in block i, up to the first one of the next;
// where the last block ends is not known.
func (t *table) keys(i int) keyRange {
	first := func(i int) []byte {
		var o fb.BlockOffset
		t.index.Offsets(&o, i) // does not check i
		k := o.KeyBytes()
		return k[:len(k)-keyVersionBytes]
	}
	r := keyRange{from: first(i)}
	if i+1 < t.blocks() {
		r.to = first(i + 1)
	}
	return r
}

// checkTables verifies what Badger reads of each table when it opens: the
// index and the last block. It would not survive anything wrong in there.
func checkTables(dir string) error {
	names, err := tableNames(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		t, err := openTable(name)
		if err != nil {
			return err
		}
		if last := t.blocks() - 1; last >= 0 {
			err = t.verify(last)
		}
		t.close()
		if err != nil {
			return fmt.Errorf("%s: last block: %w", name, err)
		}
	}
	return nil
}
