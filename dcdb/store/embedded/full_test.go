package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"dcfs/dcdb/store"
)

// smallDisk mounts a file system of so many MiB.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skipf("SKIPPED: mounting a small file system takes root: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fillDisk takes all space but leave bytes, as another user of the disk does.
func fillDisk(t *testing.T, dir string, leave uint64) (file string) {
	t.Helper()
	_, free, err := statfs(dir)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "others")
	f := must(os.Create(file))(t)
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(free-leave)); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestFullDisk fills the disk by the store's own writes and then by others'.
// What it fears most is SIGBUS.
func TestFullDisk(t *testing.T) {
	disk := smallDisk(t, 192)
	o := small(t)
	o.ReserveBytes = 40 << 20
	dir := filepath.Join(disk, "store")
	s := must(Create(dir, o))(t)
	g := s.FirstGroup()

	var ids []store.ID
	for i := 0; ; i++ {
		if u := must(s.Usage(ctx))(t); u.FreeBytes < 2<<20 {
			break // who asks is not admitted
		}
		got, err := s.Put(ctx, g, store.KindContent, [][]byte{data(byte(i), 1<<20), data(byte(i), 9000)})
		ids = append(ids, must(got, err)(t)...)
		commit(t, s, g, fmt.Sprint(i), string(data(1, 3000)))
		barrier(t, s)
		g++
	}
	u := must(s.Usage(ctx))(t)
	t.Logf("full with %d MiB of objects on a disk of 192 MiB; %+v", len(ids)/2, u)
	if len(ids)/2 < 60 || u.FreeBytes > 2<<20 {
		t.Errorf("full too early, or not seen as full")
	}

	others := fillDisk(t, disk, 1<<20)
	for i := range 300 { // what deleting files takes
		commit(t, s, g, fmt.Sprintf("dead/%d", i), string(data(1, 2000)))
		g++
	}
	barrier(t, s)
	if u := must(s.Usage(ctx))(t); u.FreeBytes != 0 {
		t.Errorf("FreeBytes without the ballast: %d", u.FreeBytes)
	}
	if _, err := os.Stat(filepath.Join(dir, ballastName)); err == nil {
		t.Error("the ballast was not released")
	}
	if _, err := s.Put(ctx, g, store.KindContent, [][]byte{data(1, 100_000)}); err != nil {
		t.Errorf("Put of what was admitted before, without the ballast: %v", err)
	}
	for i := 0; ; i++ { // to the bitter end
		b := &store.Batch{Group: g, Fence: s.Fence(), Puts: []store.Record{{Key: fmt.Append(nil, "more/", i), Value: data(1, 100_000)}}}
		err := s.Commit(ctx, b)
		if errors.Is(err, store.ErrFull) {
			t.Logf("batches of 100 kB are refused after %d", i)
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		g++
	}

	if err := s.Delete(ctx, ids[len(ids)/2:]); err != nil && !errors.Is(err, store.ErrFull) {
		t.Errorf("Delete: %v", err)
	}
	os.Remove(others)
	if _, err := s.Put(ctx, g, store.KindContent, [][]byte{data(1, 1<<20)}); err != nil {
		t.Errorf("Put when there is space again: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, ballastName)); err != nil {
		t.Errorf("the ballast was not made again: %v", err)
	}
	commit(t, s, g, "back", "again")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = must(Open(dir, o))(t)
	defer s.Close()
	for i, id := range ids[:len(ids)/2] {
		p := make([]byte, id.Len)
		if err := s.Read(ctx, id, store.KindContent, 0, p); err != nil || p[1] != data(byte(i/2), 2)[1] {
			t.Fatalf("read %v: %v", id, err)
		}
	}
	if vs := must(s.Get(ctx, []byte("back"), []byte("dead/299")))(t); string(vs[0]) != "again" || vs[1] == nil {
		t.Errorf("records: %q", vs)
	}
}

func TestOpenOnAFullDisk(t *testing.T) {
	disk := smallDisk(t, 128)
	dir := filepath.Join(disk, "store")
	o := small(t)
	o.ReserveBytes = 40 << 20
	s := must(Create(dir, o))(t)
	commit(t, s, 1, "a", "1")
	s.Close()
	fillDisk(t, disk, 0)
	if s, err := Open(dir, o); err == nil {
		s.Close()
		t.Log("opened with the ballast's space")
	} else if !errors.Is(err, store.ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
}
