package snap

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"dcfs/dcdb"
)

// The first bytes of keys; see the package comment.
const (
	keyVolume = 'v'
	keyFork   = 'f'
	keySnap   = 'n'
	keyHead   = 'h'
	keySaved  = 's'
	keyIndex  = 'c'
	keyDead   = 'd'
	keySum    = 't'
	keyBulk   = 'b'
	keyTask   = 'r'
	keyExcess = 'o'
	keyExtra  = 'x'
	keyViews  = 'w'
	keyHold   = 'k'
	keyExpiry = 'u'
	keyPolicy = 'p'
)

// kinds are the first bytes of all keys there are, those of package dcdb too.
var kinds = []byte{
	keyVolume, keyFork, keySnap, keyHead, keySaved, keyIndex, keyDead, keySum, keyBulk, keyTask,
	keyExcess, keyExtra, keyViews, keyHold, keyExpiry, keyPolicy, dcdb.FreePrefix()[0],
}

// Kinds returns the first bytes of the keys of all records that a volume has.
func Kinds() []byte { return slices.Clone(kinds) }

const recordVersion = 1

// key returns a key of a first byte and big-endian numbers.
func key(kind byte, nums ...uint64) []byte {
	k := make([]byte, 1, 1+8*len(nums))
	k[0] = kind
	for _, n := range nums {
		k = binary.BigEndian.AppendUint64(k, n)
	}
	return k
}

// after returns the least key above all that begin with k.
func after(k []byte) []byte {
	out := append([]byte(nil), k...)
	for i := len(out) - 1; i >= 0; i-- {
		if out[i]++; out[i] != 0 {
			return out[:i+1]
		}
	}
	return nil
}

// next returns the least key above k.
func next(k []byte) []byte { return append(append(make([]byte, 0, len(k)+1), k...), 0) }

// keyNums reads the numbers of a key that key made with n of them.
func keyNums(k []byte, n int) ([]uint64, error) {
	if len(k) != 1+8*n {
		return nil, fmt.Errorf("%w: key %x", dcdb.ErrCorrupt, k)
	}
	nums := make([]uint64, n)
	for i := range nums {
		nums[i] = binary.BigEndian.Uint64(k[1+8*i:])
	}
	return nums, nil
}

// reader reads the values of this package's records.
type reader struct {
	b   []byte
	err error
}

// newReader checks the version and reads on.
func newReader(b []byte) *reader { return newReaderUpTo(b, recordVersion) }

// newReaderUpTo is newReader for a kind of records that has later versions.
func newReaderUpTo(b []byte, version byte) *reader {
	r := &reader{b: b}
	if len(b) == 0 {
		r.fail()
	} else if b[0] < recordVersion || b[0] > version {
		r.err = fmt.Errorf("%w: record of version %d, this program knows %d", dcdb.ErrVersion, b[0], version)
		r.b = nil
	} else {
		r.b = b[1:]
	}
	return r
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = fmt.Errorf("%w: bad record", dcdb.ErrCorrupt)
	}
	r.b = nil
}

func (r *reader) num() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) u32() uint32 {
	v := r.num()
	if v > math.MaxUint32 {
		r.fail()
		return 0
	}
	return uint32(v)
}

func (r *reader) bool() bool {
	v := r.num()
	if v > 1 {
		r.fail()
	}
	return v == 1
}

func (r *reader) str() string {
	n := r.num()
	if n > uint64(len(r.b)) {
		r.fail()
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail()
	}
	return r.err
}

// encode returns a record's value of numbers.
func encode(nums ...uint64) []byte {
	b := []byte{recordVersion}
	for _, n := range nums {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func appendStr(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
