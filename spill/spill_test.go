package spill

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// TestRowsComeInOrder sorts in memory and in a file, in many runs and few, and
// wants all rows, equal ones too.
func TestRowsComeInOrder(t *testing.T) {
	for _, n := range []int{0, 1, 2, 1000, 20000} {
		for _, memory := range []int{1, 100, 5000, 1 << 20} {
			t.Run(fmt.Sprint(n, " rows in ", memory), func(t *testing.T) {
				dir := t.TempDir()
				rnd := rand.New(rand.NewPCG(uint64(n), uint64(memory)))
				s := New(12, Options{Bytes: memory, Dir: dir})
				defer s.Close()
				var want [][]byte
				for range n {
					row := binary.BigEndian.AppendUint64([]byte("row "), rnd.Uint64N(uint64(n)))
					want = append(want, slices.Clone(row))
					if err := s.Add(row); err != nil {
						t.Fatal(err)
					}
					clear(row) // it is the caller's again
				}
				if spilled := s.Spilled() > 0; spilled != (12*n > max(memory, 12)) {
					t.Errorf("%d bytes in a file", s.Spilled())
				}
				slices.SortFunc(want, bytes.Compare)
				rows, err := s.Sort()
				if err != nil {
					t.Fatal(err)
				}
				for i, w := range want {
					if got, err := rows.Next(); err != nil || !bytes.Equal(got, w) {
						t.Fatalf("row %d: %x, %v, want %x", i, got, err, w)
					}
				}
				if got, err := rows.Next(); got != nil || err != nil {
					t.Fatalf("after the last row: %x, %v", got, err)
				}
				if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
					t.Errorf("there are files: %v, %v", left, err)
				}
			})
		}
	}
}

// TestNoTemporaryFile: where none can be made, that comes out.
func TestNoTemporaryFile(t *testing.T) {
	s := New(8, Options{Bytes: 8, Dir: "/nonexistent"})
	defer s.Close()
	row := make([]byte, 8)
	if err := s.Add(row); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(row); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("add: %v, want an error", err)
	}
}
