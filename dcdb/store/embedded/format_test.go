package embedded

import (
	"encoding/hex"
	"fmt"
	"testing"

	"dcfs/dcdb/store"
)

// TestFormat1StaysReadable reads what the first version wrote. These samples
// never change.
func TestFormat1StaysReadable(t *testing.T) {
	b, _ := hex.DecodeString("01ac020102090207640201022f32080000")
	st, err := decodeState(b)
	want := state{last: 300, first: 1, fence: 2, next: 9, segs: []segState{{7, 100, []extent{{1, 2}, {50, 50}}}, {8, 0, nil}}}
	if err != nil || fmt.Sprint(st) != fmt.Sprint(want) {
		t.Errorf("state: %v, %v", st, err)
	}
	b, _ = hex.DecodeString("646366570100000001020300000000000000000000000000000000000000000500000000000000046cf7c887")
	if w, err := decodeSlot(store.UUID{1, 2, 3}, b); err != nil || w != (witnessed{5, 4}) {
		t.Errorf("witness: %v, %v", w, err)
	}
	super := `{"volume": {"format":"dcfs","version":1,"uuid":"01020300-0000-4000-8000-000000000000","created":"2026-01-02T03:04:05Z"}, "crc32c": "SUM"}`
	sum := store.Checksum([]byte(`{"format":"dcfs","version":1,"uuid":"01020300-0000-4000-8000-000000000000","created":"2026-01-02T03:04:05Z"}`))
	b = []byte(super[:len(super)-len(`SUM"}`)] + fmt.Sprintf(`%08x"}`, sum))
	if sb, err := decodeSuper(b); err != nil || sb.UUID != (store.UUID{1, 2, 3, 0, 0, 0, 0x40, 0, 0x80}) || sb.Created.Year() != 2026 {
		t.Errorf("superblock: %v, %v", sb, err)
	}
}
