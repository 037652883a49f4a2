package embedded

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMappedTableIsToldFromOtherMaps(t *testing.T) {
	const dir = "/s t/records"
	for line, want := range map[string]bool{
		"7f0000000000-7f0000800000 r--s 00000000 fe:00 123    /s t/records/000007.sst": true,
		"7f0000000000-7f0000800000 rw-s 00000000 fe:00 123    /s t/records/00003.mem":  false,
		"7f0000000000-7f0000800000 r--s 00000000 fe:00 123    /other/000007.sst":       false,
		"c000000000-c000400000 rw-p 00000000 00:00 0":                                  false,
		"": false,
	} {
		from, to, ok := mappedTable(line, dir)
		if ok != want || ok && (from != 0x7f0000000000 || to != 0x7f0000800000) {
			t.Errorf("%q: %x, %x, %v", line, from, to, ok)
		}
	}
}

func TestTablesArePagedOut(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "000001.sst")
	if err := os.WriteFile(name, data(1, residentBytes+(16<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	f := must(os.Open(name))(t)
	defer f.Close()
	unix.Fsync(int(f.Fd())) // what is dirty can't be paged out
	m := must(unix.Mmap(int(f.Fd()), 0, residentBytes+(16<<20), unix.PROT_READ, unix.MAP_SHARED))(t)
	defer unix.Munmap(m)
	sum := 0
	for i := 0; i < len(m); i += 4096 {
		sum += int(m[i])
	}
	before := must(rssFile())(t)
	if before < residentBytes {
		t.Skipf("SKIPPED: the kernel mapped only %d MiB", before>>20)
	}
	trimResident(dir)
	after := must(rssFile())(t)
	if after > before/2 {
		t.Errorf("%d MiB of files in memory, %d MiB before", after>>20, before>>20)
	}
	for i := 0; i < len(m); i += 4096 {
		sum -= int(m[i])
	}
	if sum != 0 {
		t.Error("the file reads otherwise afterwards")
	}
}
