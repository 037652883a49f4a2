package main

import (
	"strings"
	"testing"
)

func TestParseMountinfo(t *testing.T) {
	ms, err := parseMounts(strings.NewReader(`22 27 0:21 / /proc rw,relatime - proc proc rw
36 35 0:57 / /mnt/with\040space rw,nosuid,nodev shared:7 - fuse.dcfs /srv/st@try rw,user_id=1000,group_id=1000
37 35 0:57 /.forks/try /bind rw - fuse.dcfs /srv/st@try rw,user_id=1000,group_id=1000
no mount at all
`))
	if err != nil || len(ms) != 3 {
		t.Fatalf("got %d mounts, %v, want 3", len(ms), err)
	}
	m := ms[1]
	if m.Mountpoint != "/mnt/with space" || m.Dev != "0:57" || m.Source != "/srv/st@try" || !m.isDcfs() || m.owner() != 1000 {
		t.Errorf("got %+v", m)
	}
	if ms[2].Root != "/.forks/try" || ms[0].isDcfs() {
		t.Errorf("got %+v and %+v", ms[2], ms[0])
	}
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add(`36 35 98:0 /mnt1 /mnt2\040 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`)
	f.Fuzz(func(t *testing.T, line string) {
		if m := parseMount(line); m != nil {
			m.owner()
		}
	})
}
