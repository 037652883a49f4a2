package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"dcfs/dcdb/store"
)

// The witness is a small file outside Badger that knows which groups were
// acknowledged, since Badger forgets the end of a damaged log without a word.
//
// # Format, version 1
//
// Three slots of 4096 bytes. The first two take turns, so that a torn write
// leaves the other one; they are synced. The third is not.
//
//	slot | magic "dcfW" 4B | version, 1: 1B | zero 3B | UUID 16B
//	     | begun 8B | acknowledged 8B | CRC-32C of the bytes before it 4B |
//
// A synced slot is written while the barrier of group begun runs: by then
// acknowledged, the group of the barrier before, has been answered for. When
// the barrier has returned, the third slot says acknowledged = begun. It
// outlives a killed process, and mostly a power cut.
const (
	witnessMagic   = "dcfW"
	witnessVersion = 1
	slotBytes      = 4096
	slotLen        = 44
	doneSlot       = 2
)

type witness struct {
	uuid store.UUID // immutable

	mu   sync.Mutex
	f    *os.File // guarded by mu
	turn int      // guarded by mu; the next synced slot
}

// witnessed is what the slots say together.
type witnessed struct {
	begun uint64 // the highest group whose barrier began
	acked uint64 // the highest group known to be acknowledged
}

func encodeSlot(u store.UUID, w witnessed) []byte {
	b := make([]byte, 0, slotLen)
	b = append(b, witnessMagic...)
	b = append(b, witnessVersion, 0, 0, 0)
	b = append(b, u[:]...)
	b = binary.BigEndian.AppendUint64(b, w.begun)
	b = binary.BigEndian.AppendUint64(b, w.acked)
	return binary.BigEndian.AppendUint32(b, store.Checksum(b))
}

func decodeSlot(u store.UUID, b []byte) (w witnessed, err error) {
	switch {
	case len(b) != slotLen, string(b[:4]) != witnessMagic, b[5]|b[6]|b[7] != 0,
		binary.BigEndian.Uint32(b[40:]) != store.Checksum(b[:40]):
		return w, store.ErrCorrupt
	case b[4] != witnessVersion:
		return w, fmt.Errorf("version %d: %w", b[4], store.ErrCorrupt)
	case store.UUID(b[8:24]) != u:
		return w, fmt.Errorf("of another volume: %w", store.ErrCorrupt)
	}
	return witnessed{binary.BigEndian.Uint64(b[24:]), binary.BigEndian.Uint64(b[32:])}, nil
}

// createWitness writes the witness of a new volume, durably.
func createWitness(dir string, u store.UUID) error {
	b := make([]byte, doneSlot*slotBytes+slotLen)
	for i := 0; i <= doneSlot; i++ {
		copy(b[i*slotBytes:], encodeSlot(u, witnessed{}))
	}
	return writeFileAtomic(filepath.Join(dir, witnessName), b)
}

// openWitness reads the witness. One synced slot may be torn, and the
// unsynced one anything.
func openWitness(dir string, u store.UUID) (*witness, witnessed, error) {
	var all witnessed
	name := filepath.Join(dir, witnessName)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, all, err
	}
	w := &witness{uuid: u, f: f}
	var errs []error
	newest := uint64(0)
	for i := 0; i <= doneSlot; i++ {
		b := make([]byte, slotLen)
		_, err := f.ReadAt(b, int64(i*slotBytes))
		var s witnessed
		if err == nil {
			s, err = decodeSlot(u, b)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if i < doneSlot && s.begun >= newest {
			newest, w.turn = s.begun, 1-i
		}
		all.begun, all.acked = max(all.begun, s.begun), max(all.acked, s.acked)
	}
	if len(errs) > 1 {
		f.Close()
		return nil, all, fmt.Errorf("%s: %w", name, errors.Join(errs[0], store.ErrCorrupt))
	}
	return w, all, nil
}

// begin notes durably that the barrier of group has begun and that acked was
// answered for.
func (w *witness) begin(group, acked uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.f.WriteAt(encodeSlot(w.uuid, witnessed{group, acked}), int64(w.turn*slotBytes)); err != nil {
		return fmt.Errorf("witness of group %d: %w", group, err)
	}
	if err := unix.Fdatasync(int(w.f.Fd())); err != nil {
		return fmt.Errorf("sync witness of group %d: %w", group, err)
	}
	w.turn = 1 - w.turn
	return nil
}

// done notes that group was answered for, without waiting for the disk.
func (w *witness) done(group uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.f.WriteAt(encodeSlot(w.uuid, witnessed{group, group}), doneSlot*slotBytes); err != nil {
		return fmt.Errorf("witness of group %d: %w", group, err)
	}
	return nil
}

func (w *witness) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.f.Close()
}

// check refuses a store whose last group is older than what was acknowledged.
func (w witnessed) check(last uint64) error {
	if last < w.acked {
		return fmt.Errorf("%w: group %d was acknowledged, but the last group in the records is %d: later ones are missing", store.ErrCorrupt, w.acked, last)
	}
	return nil
}
