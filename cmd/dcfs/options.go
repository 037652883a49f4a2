package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dcfs/fs"
	"dcfs/snap"
)

// mountOptions is what -o and the flags say about one mount.
type mountOptions struct {
	AllowOther  bool   `json:"allowOther,omitempty"`
	ReadOnly    bool   `json:"readOnly,omitempty"`
	StrictAtime bool   `json:"strictAtime,omitempty"`
	NoACL       bool   `json:"noACL,omitempty"`
	NoExport    bool   `json:"noExport,omitempty"`
	NoXattr     bool   `json:"noXattr,omitempty"`
	SnapDir     string `json:"snapDir,omitempty"` // "none": closed
	ForkDir     string `json:"forkDir,omitempty"`
	Transport   string `json:"transport,omitempty"` // "": the default

	FsName string `json:"-"`
	Suid   bool   `json:"-"` // the kernel's flags, not the server's business
	Dev    bool   `json:"-"`
	NoExec bool   `json:"-"`
	// NoAtime is for /proc/mounts only: without StrictAtime no read changes it.
	NoAtime bool `json:"-"`

	Remount bool    `json:"-"`
	Flags   uintptr `json:"-"` // of a remount: what the kernel is to change
	Clear   uintptr `json:"-"` // ... and to take away
	Kernel  string  `json:"-"` // ... as the user wrote it
}

// serverOptions is what a server is started with. They hold for the store,
// whatever is mounted of it.
type serverOptions struct {
	Cache   int64         // bytes of cached pages and contents; 0: the default
	Dirty   int64         // bytes that wait to be written; 0: the default
	Size    int64         // bytes that the store may take; 0: what its disk has
	Commit  time.Duration // how often a commit group is written; 0: the default
	Log     string        // a file, "-" for stderr, "none", "" for the store's own
	Verbose bool
	Debug   bool
}

// isZero reports whether nothing was asked for.
func (o serverOptions) isZero() bool { return o == serverOptions{} }

// An option of -o, by name: what it does, given its value. takesValue says
// whether it has one.
type option struct {
	takesValue bool
	set        func(p *optionParser, value string) error
}

// optionParser gathers what the -o options of one command line say.
type optionParser struct {
	mount  mountOptions
	server serverOptions
	sloppy bool // ignore what is unknown, as mount -s
}

func flag(set func(*optionParser)) option {
	return option{set: func(p *optionParser, _ string) error { set(p); return nil }}
}

func valued(set func(p *optionParser, value string) error) option {
	return option{takesValue: true, set: set}
}

// kernelFlag is an option that mount(2) knows: on raises it, otherwise it is
// cleared.
func kernelFlag(bit uintptr, on bool, set func(*optionParser)) option {
	return flag(func(p *optionParser) {
		if on {
			p.mount.Flags, p.mount.Clear = p.mount.Flags|bit, p.mount.Clear&^bit
		} else {
			p.mount.Flags, p.mount.Clear = p.mount.Flags&^bit, p.mount.Clear|bit
		}
		set(p)
	})
}

// atimeFlags are those of mount(2) of which one holds.
const atimeFlags = unix.MS_STRICTATIME | unix.MS_NOATIME | unix.MS_RELATIME

// setAtime has reads change atime as one of the atimeFlags says.
func (p *optionParser) setAtime(bit uintptr) {
	p.mount.Flags = p.mount.Flags&^atimeFlags | bit
	p.mount.Clear = p.mount.Clear&^bit | atimeFlags&^bit
	p.mount.StrictAtime, p.mount.NoAtime = bit == unix.MS_STRICTATIME, bit == unix.MS_NOATIME
}

// notStrict takes strictatime back, the kernel's default holds then.
func (p *optionParser) notStrict() {
	if !p.mount.NoAtime {
		p.setAtime(unix.MS_RELATIME)
	}
}

// allow clears a flag of mount(2) and sets on, unless the flag was asked for.
func (p *optionParser) allow(bit uintptr, on *bool) {
	if p.mount.Flags&bit == 0 {
		p.mount.Clear |= bit
		*on = true
	}
}

func nothing(*optionParser) {}

var ignored = flag(nothing)

// options is every option that dcfs knows. mount(8) hands over what stands in
// /etc/fstab, so what concerns only it, or only its callers, is accepted.
var options = map[string]option{
	"ro":     kernelFlag(unix.MS_RDONLY, true, func(p *optionParser) { p.mount.ReadOnly = true }),
	"rw":     kernelFlag(unix.MS_RDONLY, false, func(p *optionParser) { p.mount.ReadOnly = false }),
	"nosuid": kernelFlag(unix.MS_NOSUID, true, func(p *optionParser) { p.mount.Suid = false }),
	"suid":   kernelFlag(unix.MS_NOSUID, false, func(p *optionParser) { p.mount.Suid = true }),
	"nodev":  kernelFlag(unix.MS_NODEV, true, func(p *optionParser) { p.mount.Dev = false }),
	"dev":    kernelFlag(unix.MS_NODEV, false, func(p *optionParser) { p.mount.Dev = true }),
	// mount(8) keeps suid and dev to itself: it takes them for the default. Its
	// own options it puts first, so here it is nosuid and nodev that win.
	"allow_suid": flag(func(p *optionParser) { p.allow(unix.MS_NOSUID, &p.mount.Suid) }),
	"allow_dev":  flag(func(p *optionParser) { p.allow(unix.MS_NODEV, &p.mount.Dev) }),
	"noexec":     kernelFlag(unix.MS_NOEXEC, true, func(p *optionParser) { p.mount.NoExec = true }),
	"exec":       kernelFlag(unix.MS_NOEXEC, false, func(p *optionParser) { p.mount.NoExec = false }),
	"remount":    flag(func(p *optionParser) { p.mount.Remount = true }),

	"allow_other":         flag(func(p *optionParser) { p.mount.AllowOther = true }),
	"default_permissions": ignored, // always so
	"acl":                 flag(func(p *optionParser) { p.mount.NoACL = false }),
	"noacl":               flag(func(p *optionParser) { p.mount.NoACL = true }),
	"xattr":               flag(func(p *optionParser) { p.mount.NoXattr = false }),
	"noxattr":             flag(func(p *optionParser) { p.mount.NoXattr = true }),
	"export":              flag(func(p *optionParser) { p.mount.NoExport = false }),
	"noexport":            flag(func(p *optionParser) { p.mount.NoExport = true }),
	"strictatime":         flag(func(p *optionParser) { p.setAtime(unix.MS_STRICTATIME) }),
	"nostrictatime":       flag((*optionParser).notStrict),
	"lazytime":            flag((*optionParser).notStrict),
	"noatime":             flag(func(p *optionParser) { p.setAtime(unix.MS_NOATIME) }),
	"relatime":            flag(func(p *optionParser) { p.setAtime(unix.MS_RELATIME) }),
	"atime": flag(func(p *optionParser) {
		if !p.mount.StrictAtime {
			p.setAtime(unix.MS_RELATIME)
		}
	}),
	"snapdir": valued(func(p *optionParser, v string) error { return setDir(&p.mount.SnapDir, v) }),
	"forkdir": valued(func(p *optionParser, v string) error { return setDir(&p.mount.ForkDir, v) }),
	"transport": valued(func(p *optionParser, v string) error {
		if v != fs.Wire && v != "gofuse" {
			return fmt.Errorf("it is gofuse, the default, or %s", fs.Wire)
		}
		p.mount.Transport = strings.TrimPrefix(v, "gofuse")
		return nil
	}),
	"fsname":  valued(setFsName),
	"subtype": valued(func(*optionParser, string) error { return nil }),

	"cache":  valued(func(p *optionParser, v string) error { return setSize(&p.server.Cache, v) }),
	"dirty":  valued(func(p *optionParser, v string) error { return setSize(&p.server.Dirty, v) }),
	"commit": valued(func(p *optionParser, v string) error { return setCommit(&p.server.Commit, v) }),
	"log":    valued(func(p *optionParser, v string) error { p.server.Log = v; return nil }),

	"key-file": valued(func(_ *optionParser, v string) error { userKey.file = v; return nil }),

	"size": valued(func(p *optionParser, v string) error { return setVolumeSize(&p.server.Size, v) }),
	"sync": option{set: func(*optionParser, string) error {
		return fmt.Errorf("sync is not supported: leave it out, and let programs use fsync or O_SYNC")
	}},
	"dirsync": option{set: func(*optionParser, string) error {
		return fmt.Errorf("dirsync is not supported: leave it out, and let programs fsync the directory")
	}},
	"allow_root": option{set: func(*optionParser, string) error {
		return fmt.Errorf("allow_root is not supported: use allow_other")
	}},

	"defaults": ignored, "auto": ignored, "noauto": ignored, "nofail": ignored, "_netdev": ignored,
	"user": ignored, "users": ignored, "nouser": ignored, "owner": ignored, "noowner": ignored,
	"group": ignored, "nogroup": ignored, "async": ignored, "silent": ignored, "loud": ignored,
	"diratime": ignored, "nodiratime": ignored, "norelatime": ignored, "nolazytime": ignored,
	"mand": ignored, "nomand": ignored, "iversion": ignored, "noiversion": ignored,
	"nonempty": ignored,
}

// mountFlags are the options of o that mount(2) has flags for. nosuid and
// nodev are the default.
func (o *mountOptions) mountFlags() []string {
	var flags []string
	for _, f := range []struct {
		on   bool
		name string
	}{{o.Suid, "suid"}, {o.Dev, "dev"}, {o.NoExec, "noexec"}, {o.NoAtime, "noatime"}, {o.StrictAtime, "strictatime"}} {
		if f.on {
			flags = append(flags, f.name)
		}
	}
	return flags
}

// remounted are options that only the kernel's list of mounts names: mount(8)
// repeats them when it remounts.
var remounted = []string{"user_id", "group_id", "rootmode", "fd", "max_read", "blksize"}

// parse reads the argument of one -o.
func (p *optionParser) parse(list string) error {
	for _, o := range splitOptions(list) {
		name, value, hasValue := strings.Cut(o, "=")
		known, ok := options[name]
		switch {
		case o == "" || strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-"),
			name == "comment", name == "helper", name == "uhelper", name == "user" && hasValue:
			continue
		case hasValue && isRemounted(name):
			continue
		case !ok && p.sloppy:
			continue
		case !ok:
			return &usageError{text: fmt.Sprintf("unknown option -o %s", name)}
		case known.takesValue && (!hasValue || value == ""):
			return &usageError{text: fmt.Sprintf("option -o %s=... has no value", name)}
		case !known.takesValue && hasValue:
			return &usageError{text: fmt.Sprintf("option -o %s takes no value", name)}
		}
		if err := known.set(p, value); err != nil {
			return &usageError{text: fmt.Sprintf("option -o %s: %v", o, err)}
		}
	}
	return nil
}

func isRemounted(name string) bool {
	for _, r := range remounted {
		if r == name {
			return true
		}
	}
	return false
}

// splitOptions splits at the commas outside of double quotes, as mount(8)
// does.
func splitOptions(list string) []string {
	var out []string
	var b strings.Builder
	quoted := false
	for _, r := range list {
		switch {
		case r == '"':
			quoted = !quoted
		case r == ',' && !quoted:
			out = append(out, b.String())
			b.Reset()
		default:
			b.WriteRune(r)
		}
	}
	return append(out, b.String())
}

// check refuses what this user, or this combination, can't have.
func (p *optionParser) check() error {
	if os.Geteuid() != 0 && (p.mount.Suid || p.mount.Dev) {
		return &usageError{text: "only root may mount with suid or dev"}
	}
	if s, f := p.mount.SnapDir, p.mount.ForkDir; s == f && s != "" && s != "none" {
		return &usageError{text: "snapdir and forkdir must differ"}
	}
	return nil
}

// setDir takes the name of a virtual directory, or none.
func setDir(dst *string, v string) error {
	if v == "." || v == ".." || strings.Contains(v, "/") || len(v) > 255 || snap.CheckName("x"+v) != nil {
		return fmt.Errorf("%q is no name for a directory", v)
	}
	*dst = v
	return nil
}

func setFsName(p *optionParser, v string) error {
	for _, r := range v {
		if r < ' ' || r == 0x7f {
			return fmt.Errorf("a name without control characters is needed")
		}
	}
	p.mount.FsName = v
	return nil
}

func setSize(dst *int64, v string) error {
	n, err := parseSize(v)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%s is no size to work with: leave it out for the default", v)
	}
	*dst = n
	return nil
}

// parseSize reads a number of bytes: 65536, 64K, 64M, 1.5G, 64MiB.
func parseSize(s string) (int64, error) {
	num := strings.TrimSpace(s)
	unit := strings.ToUpper(strings.TrimLeft(num, "0123456789."))
	num = num[:len(num)-len(unit)]
	unit = strings.TrimSuffix(strings.TrimSuffix(unit, "B"), "I")
	shift, ok := map[string]uint{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[unit]
	f, err := strconv.ParseFloat(num, 64)
	if !ok || err != nil || f < 0 || f*float64(int64(1)<<shift) > 1<<50 {
		return 0, fmt.Errorf("%q is no size: write 512K, 64M or 1G", s)
	}
	return int64(f * float64(int64(1)<<shift)), nil
}

// setCommit reads an interval: 5s, 500ms, or seconds as ext4's commit=.
func setCommit(dst *time.Duration, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil {
		secs, serr := strconv.ParseFloat(v, 64)
		if serr != nil {
			return fmt.Errorf("%q is no interval: write 1s or 500ms", v)
		}
		d = time.Duration(secs * float64(time.Second))
	}
	if d < 10*time.Millisecond || d > 5*time.Minute {
		return fmt.Errorf("%v: an interval from 10ms to 5m is needed", d)
	}
	*dst = d
	return nil
}

// minVolumeSize is the least limit of a volume: an empty store takes about a
// third of it for its logs.
const minVolumeSize = 128 << 20

// setVolumeSize reads the limit of a volume's size.
func setVolumeSize(dst *int64, s string) error {
	var n int64
	if err := setSize(&n, s); err != nil {
		return err
	}
	if n < minVolumeSize {
		return fmt.Errorf("a volume of %s is too small: at least %s", s, humanBytes(minVolumeSize))
	}
	*dst = n
	return nil
}

// volumeSizeFlag makes pflag read the limit of a volume's size.
type volumeSizeFlag struct{ sizeFlag }

func (f volumeSizeFlag) Set(s string) error { return setVolumeSize(f.n, s) }

// sizeFlag makes pflag read a size.
type sizeFlag struct{ n *int64 }

func (f sizeFlag) String() string {
	if f.n == nil || *f.n == 0 {
		return ""
	}
	return humanBytes(uint64(*f.n))
}
func (f sizeFlag) Set(s string) error { return setSize(f.n, s) }
func (f sizeFlag) Type() string       { return "SIZE" }

// intervalFlag makes pflag read an interval.
type intervalFlag struct{ d *time.Duration }

func (f intervalFlag) String() string {
	if f.d == nil || *f.d == 0 {
		return ""
	}
	return f.d.String()
}
func (f intervalFlag) Set(s string) error { return setCommit(f.d, s) }
func (f intervalFlag) Type() string       { return "INTERVAL" }
