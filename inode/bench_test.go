package inode

import (
	"fmt"
	"testing"

	"dcfs/dcdb/store"
	"dcfs/snap"
)

func benchVolume(b *testing.B) (*FS, *snap.View) {
	vol, err := snap.Open(bg, store.Store(newMemory()), snap.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { vol.Close(bg) })
	return New(vol, Options{}), vol.Main()
}

func BenchmarkCreate(b *testing.B) {
	f, v := benchVolume(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := f.Mknod(bg, v, snap.RootIno, fmt.Sprintf("file-%08d", i), root, 0644, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCreateUnlink is the life of a temporary file: the kernel forgets
// it when its name is gone.
func BenchmarkCreateUnlink(b *testing.B) {
	f, v := benchVolume(b)
	b.ReportAllocs()
	for b.Loop() {
		a, err := f.Mknod(bg, v, snap.RootIno, "tmp", root, 0644, 0)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := f.Unlink(bg, v, snap.RootIno, "tmp"); err != nil {
			b.Fatal(err)
		}
		if err := f.Forget(bg, v, a.Ino); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	f, v := benchVolume(b)
	const n = 10000
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("file-%08d", i)
		if _, err := f.Mknod(bg, v, snap.RootIno, names[i], root, 0644, 0); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := f.Lookup(bg, v, snap.RootIno, names[i%n]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite4K(b *testing.B) {
	f, v := benchVolume(b)
	a, err := f.Mknod(bg, v, snap.RootIno, "file", root, 0644, 0)
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 4096)
	for i := range p {
		p[i] = byte(i * 7)
	}
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		off := uint64(i) * 4096 % (64 << 20)
		if _, err := f.Write(bg, v, a.Ino, root, p, off, WriteFlags{}); err != nil {
			b.Fatal(err)
		}
	}
}
