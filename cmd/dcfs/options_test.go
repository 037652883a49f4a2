package main

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func parseOptions(t *testing.T, list string) *optionParser {
	t.Helper()
	p := &optionParser{}
	if err := p.parse(list); err != nil {
		t.Fatalf("-o %s: %v", list, err)
	}
	return p
}

func TestOptionsSayWhatTheMountIs(t *testing.T) {
	for list, want := range map[string]mountOptions{
		"":                                 {},
		"defaults":                         {},
		"allow_other,strictatime":          {AllowOther: true, StrictAtime: true, Flags: unix.MS_STRICTATIME, Clear: unix.MS_NOATIME | unix.MS_RELATIME},
		"strictatime,lazytime":             {Flags: unix.MS_RELATIME, Clear: unix.MS_NOATIME | unix.MS_STRICTATIME},
		"noatime,nostrictatime":            {NoAtime: true, Flags: unix.MS_NOATIME, Clear: unix.MS_STRICTATIME | unix.MS_RELATIME},
		"strictatime,atime":                {StrictAtime: true, Flags: unix.MS_STRICTATIME, Clear: unix.MS_NOATIME | unix.MS_RELATIME},
		"noatime,atime":                    {Flags: unix.MS_RELATIME, Clear: unix.MS_NOATIME | unix.MS_STRICTATIME},
		"noacl":                            {NoACL: true},
		"noexport":                         {NoExport: true},
		"noexport,export":                  {},
		"noacl,acl":                        {},
		"noxattr":                          {NoXattr: true},
		"noxattr,xattr":                    {},
		"transport=wire":                   {Transport: "wire"},
		"transport=wire,transport=gofuse":  {},
		"snapdir=.snap,forkdir=none":       {SnapDir: ".snap", ForkDir: "none"},
		`fsname="a,b",default_permissions`: {FsName: "a,b"},
		"ro":                               {ReadOnly: true, Flags: unix.MS_RDONLY},
		"ro,rw":                            {Clear: unix.MS_RDONLY},
		"suid,dev,noexec":                  {Suid: true, Dev: true, NoExec: true, Flags: unix.MS_NOEXEC, Clear: unix.MS_NOSUID | unix.MS_NODEV},
		"allow_suid,allow_dev":             {Suid: true, Dev: true, Clear: unix.MS_NOSUID | unix.MS_NODEV},
		"nosuid,allow_suid,allow_dev":      {Dev: true, Flags: unix.MS_NOSUID, Clear: unix.MS_NODEV},
		"suid,nosuid":                      {Flags: unix.MS_NOSUID},
	} {
		if got := parseOptions(t, list).mount; got != want {
			t.Errorf("-o %s: got %+v, want %+v", list, got, want)
		}
	}
}

func TestOptionsOfMountAndFstabAreAccepted(t *testing.T) {
	p := parseOptions(t, `rw,noauto,nofail,_netdev,user,user=joe,users,x-systemd.automount,x-systemd.requires="a,b",comment=backup,X-mount.mkdir,relatime,lazytime`)
	if p.mount.Flags != unix.MS_RELATIME {
		t.Errorf("flags %#x, want relatime alone", p.mount.Flags)
	}
}

func TestOptionsOfTheServer(t *testing.T) {
	got := parseOptions(t, "cache=128M,dirty=1.5G,commit=5,log=/tmp/log").server
	want := serverOptions{Cache: 128 << 20, Dirty: 3 << 29, Commit: 5 * time.Second, Log: "/tmp/log"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestOptionsThatAreWrongAreRefused(t *testing.T) {
	for list, want := range map[string]string{
		"uid=5":       "unknown option -o uid",
		"snapdir":     "has no value",
		"snapdir=":    "has no value",
		"snapdir=a/b": "no name for a directory",
		"snapdir=..":  "no name for a directory",
		"ro=1":        "takes no value",
		"size=1M":     "too small",
		"sync":        "fsync",
		"cache=many":  "no size",
		"cache=-1":    "no size",
		"commit=0":    "interval",
		"commit=1h":   "interval",
		"fsname=a\nb": "control characters",
		"allow_root":  "allow_other",
	} {
		err := (&optionParser{}).parse(list)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("-o %q: got %v, want an error with %q", list, err, want)
		}
	}
	if err := (&optionParser{sloppy: true}).parse("uid=5,ro"); err != nil {
		t.Errorf("sloppy: %v", err)
	}
}

func TestDoorsOfOneNameAreRefused(t *testing.T) {
	p := parseOptions(t, "snapdir=.x,forkdir=.x")
	if err := p.check(); err == nil {
		t.Error("snapdir and forkdir of the same name are accepted")
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "512": 512, "64K": 64 << 10, "64k": 64 << 10, "1.5M": 3 << 19, "2MiB": 2 << 20, "1GB": 1 << 30, "1T": 1 << 40,
	} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "K", "1X", "1..5M", "-5", "1e9", "9999999T", "NaN"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", s, got)
		}
	}
}

func TestHumanBytes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 64 << 20: "64 MiB", 3 << 39: "1.5 TiB"} {
		if got := humanBytes(n); got != want {
			t.Errorf("humanBytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestServerFlagsSurviveTheirTripToTheDaemon(t *testing.T) {
	o := serverOptions{Cache: 5 << 20, Dirty: 1, Commit: 1500 * time.Millisecond, Log: "/a b", Verbose: true, Debug: true}
	want := []string{"--cache=5242880", "--dirty=1", "--commit=1.5s", "--log=/a b", "--verbose", "--debug"}
	if got := o.args(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzOptions(f *testing.F) {
	f.Add("ro,snapdir=x")
	f.Add(`x-a="b,c",commit=5s`)
	f.Fuzz(func(t *testing.T, list string) {
		(&optionParser{}).parse(list)
		(&optionParser{sloppy: true}).parse(list)
	})
}
