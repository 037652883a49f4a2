package store

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

var testUUID = UUID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

func payload(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestObjectFrameGivesBackAnyRange(t *testing.T) {
	for _, n := range []int{1, 4095, 4096, 4097, 3*4096 + 17} {
		want := payload(n)
		id := ID{7, 3, 9, uint32(n)}
		frame := EncodeObject(testUUID, id, KindPage, want)
		for _, r := range [][2]int{{0, n}, {0, 0}, {n, 0}, {n / 2, n - n/2}, {n - 1, 1}, {min(n, 4095), 0}} {
			p := make([]byte, r[1])
			if err := ReadObject(testUUID, id, KindPage, frame, r[0], p); err != nil || !bytes.Equal(p, want[r[0]:r[0]+r[1]]) {
				t.Errorf("%d bytes, read %v: %v", n, r, err)
			}
		}
		if err := ReadObject(testUUID, id, KindPage, frame, 1, make([]byte, n)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("read past the end: got %v, want ErrCorrupt", err)
		}
	}
}

func TestEveryFlippedBitOfAnObjectIsFound(t *testing.T) {
	id := ID{7, 3, 9, 5000}
	frame := EncodeObject(testUUID, id, KindContent, payload(5000))
	p := make([]byte, 5000)
	for i := range frame {
		frame[i] ^= 0x10
		if err := ReadObject(testUUID, id, KindContent, frame, 0, p); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), id.String()) {
			t.Fatalf("byte %d flipped: got %v, want ErrCorrupt that names %v", i, err, id)
		}
		frame[i] ^= 0x10
	}
}

func TestDamageElsewhereDoesNotSpoilARange(t *testing.T) {
	id := ID{7, 3, 9, 3 * 4096}
	frame := EncodeObject(testUUID, id, KindContent, payload(3*4096))
	frame[len(frame)-1] ^= 1
	if err := ReadObject(testUUID, id, KindContent, frame, 0, make([]byte, 8192)); err != nil {
		t.Errorf("read of sound blocks: %v", err)
	}
	if err := ReadObject(testUUID, id, KindContent, frame, 8192, make([]byte, 1)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("read in the damaged block: got %v, want ErrCorrupt", err)
	}
}

func TestFrameOfAnotherIdentityIsRefused(t *testing.T) {
	id := ID{7, 3, 9, 10}
	frame := EncodeObject(testUUID, id, KindPage, payload(10))
	p := make([]byte, 10)
	for name, c := range map[string]struct {
		u    UUID
		id   ID
		kind Kind
	}{
		"kind":    {testUUID, id, KindContent},
		"volume":  {UUID{}, id, KindPage},
		"group":   {testUUID, ID{8, 3, 9, 10}, KindPage},
		"segment": {testUUID, ID{7, 4, 9, 10}, KindPage},
		"offset":  {testUUID, ID{7, 3, 8, 10}, KindPage},
		"length":  {testUUID, ID{7, 3, 9, 9}, KindPage},
	} {
		if err := ReadObject(c.u, c.id, c.kind, frame, 0, p[:c.id.Len]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("other %s: got %v, want ErrCorrupt", name, err)
		}
	}
}

func TestUnknownStorageIsRefusedByName(t *testing.T) {
	id := ID{7, 3, 9, 10}
	frame := EncodeObject(testUUID, id, KindPage, payload(10))
	frame[6] = 1
	err := ReadObject(testUUID, id, KindPage, frame, 0, nil)
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "unknown way 1") {
		t.Errorf("got %v", err)
	}
}

func TestRecordFrameCoversKeyValueAndVolume(t *testing.T) {
	key, value := []byte("key"), []byte("some value")
	frame := EncodeRecord(testUUID, key, value)
	if got, err := DecodeRecord(testUUID, key, frame); err != nil || !bytes.Equal(got, value) {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := DecodeRecord(UUID{}, key, frame); !errors.Is(err, ErrCorrupt) {
		t.Errorf("other volume: got %v", err)
	}
	if _, err := DecodeRecord(testUUID, []byte("kez"), frame); !errors.Is(err, ErrCorrupt) {
		t.Errorf("other key: got %v", err)
	}
	for i := range frame {
		frame[i] ^= 4
		if _, err := DecodeRecord(testUUID, key, frame); !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d flipped: got %v", i, err)
		}
		frame[i] ^= 4
	}
	if v, err := DecodeRecord(testUUID, key, EncodeRecord(testUUID, key, nil)); err != nil || v == nil || len(v) != 0 {
		t.Errorf("empty value: got %v, %v", v, err)
	}
}

func FuzzReadObject(f *testing.F) {
	f.Add(EncodeObject(testUUID, ID{7, 3, 9, 10}, KindPage, payload(10)))
	f.Add(EncodeObject(testUUID, ID{1, 0, 0, 5000}, KindContent, payload(5000)))
	f.Add(make([]byte, 60))
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, err := ParseHeader(frame)
		if err != nil || int(h.ID.Len) > len(frame) {
			return
		}
		p := make([]byte, h.ID.Len)
		err = ReadObject(h.UUID, h.ID, h.Kind, frame, 0, p)
		if id, verr := VerifyObject(h.UUID, frame); (err == nil) != (verr == nil) || id != h.ID {
			t.Errorf("object %v reads with %v, and %v verifies with %v", h.ID, err, id, verr)
		}
		if err != nil {
			return
		}
		if !bytes.Equal(EncodeObject(h.UUID, h.ID, h.Kind, p), frame) {
			t.Errorf("object %v decodes, but not back to the same bytes", h.ID)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte("k"), EncodeRecord(testUUID, []byte("k"), []byte("v")))
	f.Add([]byte(""), []byte{1})
	f.Fuzz(func(t *testing.T, key, frame []byte) {
		v, err := DecodeRecord(testUUID, key, frame)
		if err == nil && !bytes.Equal(EncodeRecord(testUUID, key, v), frame) {
			t.Errorf("record %q decodes, but not back to the same bytes", key)
		}
	})
}

// TestFormat1StaysReadable reads what the first version wrote. These samples
// never change.
func TestFormat1StaysReadable(t *testing.T) {
	object, _ := hex.DecodeString("6463664f0102000000000005000000000000000700000003000000090102030405060708090a0b0c0d0e0f10c7526e4e9a71bb4c68656c6c6f")
	p := make([]byte, 5)
	if err := ReadObject(testUUID, ID{7, 3, 9, 5}, KindPage, object, 0, p); err != nil || string(p) != "hello" {
		t.Errorf("object: %q, %v", p, err)
	}
	record, _ := hex.DecodeString("01d8ca9a7776616c7565")
	if v, err := DecodeRecord(testUUID, []byte("key"), record); err != nil || string(v) != "value" {
		t.Errorf("record: %q, %v", v, err)
	}
}
