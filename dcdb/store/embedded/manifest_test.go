package embedded

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"dcfs/dcdb/store"
)

// TestDamagedManifestDeletesNoTables: a length that reaches beyond the end looks
// like a change that a crash cut off. One that was is no reason to refuse.
func TestDamagedManifestDeletesNoTables(t *testing.T) {
	dir := t.TempDir()
	for g := uint64(1); g <= 3; g++ { // a table each
		s := must(OpenOrCreate(dir, small(t)))(t)
		commit(t, s, s.FirstGroup(), "key", string(data(byte(g), 200)))
		s.Close()
	}
	name := filepath.Join(dir, recordsName, "MANIFEST")
	sound := must(os.ReadFile(name))(t)
	tables := files(t, dir, recordsName+"/*.sst")
	var changes []int // where they begin
	for at := 8; at < len(sound); at += 8 + int(binary.BigEndian.Uint32(sound[at:])) {
		changes = append(changes, at)
	}
	if len(changes) < 3 || len(tables) < 2 {
		t.Fatalf("%d changes, %d tables", len(changes), len(tables))
	}
	for i, at := range changes {
		b := append([]byte(nil), sound...)
		binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-7)) // one byte too many
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Open(dir, small(t)); !errors.Is(err, store.ErrCorrupt) {
			if err == nil {
				s.Close()
			}
			t.Errorf("change %d of %d: %v", i, len(changes), err)
		}
		if left := files(t, dir, recordsName+"/*.sst"); len(left) != len(tables) {
			t.Fatalf("change %d: of %d tables %d are left", i, len(tables), len(left))
		}
	}
	torn := append(append([]byte(nil), sound...), 0, 0, 0, 40, 1, 2, 3, 4, 5, 6)
	if err := os.WriteFile(name, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	s := must(Open(dir, small(t)))(t)
	defer s.Close()
	if vs := must(s.Get(ctx, []byte("key")))(t); string(vs[0]) != string(data(3, 200)) {
		t.Error("the record is not what it was")
	}
}
