package inode

import (
	"bytes"
	"encoding/hex"
	"math"
	"syscall"
	"testing"
)

// TestDirentFormat holds the stored form of version 1: it must stay readable
// for ever.
func TestDirentFormat(t *testing.T) {
	for _, c := range []struct {
		d    dirent
		want string
	}{
		{dirent{3, syscall.S_IFREG, 3}, "01030803"},
		{dirent{1 << 40, syscall.S_IFDIR, 300}, "018080808080200" + "4ac02"},
		{dirent{math.MaxUint64, syscall.S_IFSOCK, math.MaxUint64}, "01ffffffffffffffffff010cffffffffffffffffff01"},
		{dirent{7, syscall.S_IFLNK, 0}, "01070a00"},
	} {
		if got := hex.EncodeToString(c.d.encode()); got != c.want {
			t.Errorf("encode %v: got %s, want %s", c.d, got, c.want)
		}
		b, _ := hex.DecodeString(c.want)
		if got, err := decodeDirent(b); err != nil || got != c.d {
			t.Errorf("decode %s: got %v, %v, want %v", c.want, got, err, c.d)
		}
	}
}

func TestBadDirentsAreRefused(t *testing.T) {
	for _, s := range []string{
		"", "00030803", "02030803", // version
		"01", "01000803", "0180", "01830008" + "03", // inode number: none, cut, long form
		"0103", "01030003", "01030903", "0103f803", // type
		"010308", "01030883", "0103088300", "0103080300", // cookie: none, cut, long form, more
	} {
		b, _ := hex.DecodeString(s)
		if d, err := decodeDirent(b); !isErr(err, ErrIO) || !isErr(err, errDirent) {
			t.Errorf("decode %q: got %v, %v, want an error", s, d, err)
		}
	}
}

func FuzzDirent(f *testing.F) {
	f.Add(dirent{3, syscall.S_IFREG, 3}.encode())
	f.Add(dirent{1 << 50, syscall.S_IFDIR, 1 << 40}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decodeDirent(b)
		if err != nil {
			return
		}
		if got := d.encode(); !bytes.Equal(got, b) {
			t.Errorf("% x decodes to %v, which encodes to % x", b, d, got)
		}
	})
}

func FuzzLinkKey(f *testing.F) {
	f.Add(place{1, "a"}.key())
	f.Fuzz(func(t *testing.T, key string) {
		p, err := placeOf(key)
		if err == nil && p.key() != key {
			t.Errorf("%q reads as %v, which is %q", key, p, p.key())
		}
	})
}
