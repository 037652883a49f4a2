package inode

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sort"
	"strings"
	"syscall"

	"dcfs/dcdb"
	"dcfs/snap"
)

// This file is a file system as simple as it can be written: maps in memory,
// copied whole for a snapshot. The model test runs it beside the real one.

const refBlock = 4096

// refNode is an inode.
type refNode struct {
	ino                        uint64
	mode, uid, gid             uint32
	nlink, rdev                uint32
	size                       uint64
	atime, mtime, ctime, btime dcdb.Time
	target                     string
	up                         uint64 // parent of a directory
	ents                       map[string]uint64
	xattrs                     map[string]string
	blocks                     map[uint64]*[refBlock]byte // never changed in place
	changed                    int                        // number of the last operation on it
}

func (n *refNode) clone() *refNode {
	c := *n
	c.ents, c.xattrs, c.blocks = maps.Clone(n.ents), maps.Clone(n.xattrs), maps.Clone(n.blocks)
	return &c
}

func (n *refNode) typ() uint32 { return n.mode & syscall.S_IFMT }
func (n *refNode) dir() bool   { return n.typ() == syscall.S_IFDIR }
func (n *refNode) reg() bool   { return n.typ() == syscall.S_IFREG }

// attr is what Getattr must answer, as far as it is not the implementation's
// choice.
func (n *refNode) attr() Attr {
	return Attr{n.ino, dcdb.Attr{
		Mode: n.mode, UID: n.uid, GID: n.gid, Nlink: n.nlink, Rdev: n.rdev, Size: n.size,
		Atime: n.atime, Mtime: n.mtime, Ctime: n.ctime, Btime: n.btime,
	}}
}

// refFS is a view.
type refFS struct {
	nodes map[uint64]*refNode
	order []uint64 // keys of nodes, in an order that a seed repeats
	now   dcdb.Time
	step  int // number of the running operation
}

func (r *refFS) clone() *refFS {
	c := &refFS{make(map[uint64]*refNode, len(r.nodes)), slices.Clone(r.order), r.now, r.step}
	for ino, n := range r.nodes {
		c.nodes[ino] = n.clone()
	}
	return c
}

func (r *refFS) add(n *refNode) {
	n.changed = r.step
	r.nodes[n.ino] = n
	r.order = append(r.order, n.ino)
}

func (r *refFS) remove(ino uint64) {
	delete(r.nodes, ino)
	i := slices.Index(r.order, ino)
	r.order[i] = r.order[len(r.order)-1]
	r.order = r.order[:len(r.order)-1]
}

func (r *refFS) get(ino uint64) (*refNode, error) {
	if n := r.nodes[ino]; n != nil {
		return n, nil
	}
	return nil, ErrStale
}

func (r *refFS) getDir(ino uint64) (*refNode, error) {
	n, err := r.get(ino)
	if err == nil && !n.dir() {
		return nil, ErrNotDir
	}
	return n, err
}

func (r *refFS) getReg(ino uint64) (*refNode, error) {
	n, err := r.get(ino)
	switch {
	case err != nil:
		return nil, err
	case n.dir():
		return nil, ErrIsDir
	case !n.reg():
		return nil, ErrInvalid
	}
	return n, nil
}

func (r *refFS) mtime(n *refNode) { n.mtime, n.ctime, n.changed = r.now, r.now, r.step }
func (r *refFS) ctime(n *refNode) { n.ctime, n.changed = r.now, r.step }

func refName(name string, dot, dotdot error) error {
	switch {
	case name == "":
		return ErrNotExist
	case name == ".":
		return dot
	case name == "..":
		return dotdot
	case len(name) > 255:
		return ErrNameTooLong
	case strings.Contains(name, "/") || strings.Contains(name, "\x00"):
		return ErrInvalid
	}
	return nil
}

func (r *refFS) lookup(dir uint64, name string) (Attr, error) {
	if err := refName(name, nil, nil); err != nil {
		return Attr{}, err
	}
	d, err := r.getDir(dir)
	if err != nil {
		return Attr{}, err
	}
	if name == "." {
		return d.attr(), nil
	}
	if name == ".." {
		if d.nlink == 0 {
			return Attr{}, ErrNotExist
		}
		return r.nodes[d.up].attr(), nil
	}
	ino, ok := d.ents[name]
	if !ok {
		return Attr{}, ErrNotExist
	}
	return r.nodes[ino].attr(), nil
}

// newEntry checks that name can be made in dir.
func (r *refFS) newEntry(dir uint64, name string) (*refNode, error) {
	d, err := r.getDir(dir)
	if err != nil {
		return nil, err
	}
	if d.nlink == 0 {
		return nil, ErrNotExist
	}
	if _, ok := d.ents[name]; ok {
		return nil, ErrExist
	}
	return d, nil
}

// create makes an inode; its number is what the real one got.
func (r *refFS) create(ino, dir uint64, name string, c Cred, mode, rdev uint32, target string) (Attr, error) {
	if err := refName(name, ErrExist, ErrExist); err != nil {
		return Attr{}, err
	}
	d, err := r.newEntry(dir, name)
	if err != nil {
		return Attr{}, err
	}
	n := r.newNode(ino, d, c, mode)
	n.rdev, n.target, n.nlink, n.up = rdev, target, 1, dir
	n.size = uint64(len(target))
	d.ents[name] = ino
	d.size++
	r.mtime(d)
	if n.dir() {
		n.nlink = 2
		d.nlink++
	}
	return n.attr(), nil
}

func (r *refFS) newNode(ino uint64, d *refNode, c Cred, mode uint32) *refNode {
	n := &refNode{ino: ino, mode: mode, uid: c.UID, gid: c.GID, atime: r.now, mtime: r.now, ctime: r.now, btime: r.now}
	n.ents, n.xattrs, n.blocks = map[string]uint64{}, map[string]string{}, map[uint64]*[refBlock]byte{}
	if d.mode&syscall.S_ISGID != 0 {
		n.gid = d.gid
		if n.dir() {
			n.mode |= syscall.S_ISGID
		} else if n.mode&syscall.S_IXGRP != 0 && !c.in(d.gid) {
			n.mode &^= syscall.S_ISGID
		}
	}
	n.inheritACL(d, c.Umask)
	r.add(n)
	return n
}

func (r *refFS) mknod(ino, dir uint64, name string, c Cred, mode, rdev uint32) (Attr, error) {
	switch mode & syscall.S_IFMT {
	case 0:
		mode |= syscall.S_IFREG
		rdev = 0
	case syscall.S_IFREG, syscall.S_IFIFO, syscall.S_IFSOCK:
		rdev = 0
	case syscall.S_IFBLK, syscall.S_IFCHR:
	case syscall.S_IFDIR:
		return Attr{}, ErrPermission
	default:
		return Attr{}, ErrInvalid
	}
	return r.create(ino, dir, name, c, mode, rdev, "")
}

func (r *refFS) mkdir(ino, dir uint64, name string, c Cred, mode uint32) (Attr, error) {
	return r.create(ino, dir, name, c, syscall.S_IFDIR|mode&01777, 0, "")
}

func (r *refFS) symlink(ino, dir uint64, name string, c Cred, target string) (Attr, error) {
	if target == "" {
		return Attr{}, ErrNotExist
	}
	if len(target) > 4095 {
		return Attr{}, ErrNameTooLong
	}
	return r.create(ino, dir, name, c, syscall.S_IFLNK|0777, 0, target)
}

func (r *refFS) tmpfile(ino, dir uint64, c Cred, mode uint32) (Attr, error) {
	d, err := r.getDir(dir)
	if err != nil {
		return Attr{}, err
	}
	if d.nlink == 0 {
		return Attr{}, ErrNotExist
	}
	return r.newNode(ino, d, c, syscall.S_IFREG|mode&07777).attr(), nil
}

func (r *refFS) link(ino, dir uint64, name string) (Attr, error) {
	if err := refName(name, ErrExist, ErrExist); err != nil {
		return Attr{}, err
	}
	n, err := r.get(ino)
	if err != nil {
		return Attr{}, err
	}
	d, err := r.newEntry(dir, name)
	if err != nil {
		return Attr{}, err
	}
	if n.dir() {
		return Attr{}, ErrPermission
	}
	n.nlink++
	r.ctime(n)
	d.ents[name] = ino
	d.size++
	r.mtime(d)
	return n.attr(), nil
}

// old returns a directory and the inode that name in it names.
func (r *refFS) old(dir uint64, name string) (d, n *refNode, err error) {
	if d, err = r.getDir(dir); err != nil {
		return nil, nil, err
	}
	ino, ok := d.ents[name]
	if !ok {
		return nil, nil, ErrNotExist
	}
	return d, r.nodes[ino], nil
}

// take removes an entry.
func (r *refFS) take(d, n *refNode, name string) {
	delete(d.ents, name)
	d.size--
	r.mtime(d)
	r.lose(d, n)
}

// lose takes a link from n that was in d.
func (r *refFS) lose(d, n *refNode) {
	n.nlink--
	if n.dir() {
		d.nlink--
		n.nlink = 0
	}
	r.ctime(n)
}

func (r *refFS) unlink(dir uint64, name string) (uint64, bool, error) {
	if err := refName(name, ErrIsDir, ErrIsDir); err != nil {
		return 0, false, err
	}
	d, n, err := r.old(dir, name)
	if err != nil {
		return 0, false, err
	}
	if n.dir() {
		return 0, false, ErrIsDir
	}
	r.take(d, n, name)
	return n.ino, n.nlink == 0, nil
}

func (r *refFS) rmdir(dir uint64, name string) (uint64, error) {
	if err := refName(name, ErrInvalid, ErrNotEmpty); err != nil {
		return 0, err
	}
	d, n, err := r.old(dir, name)
	if err != nil {
		return 0, err
	}
	if !n.dir() {
		return 0, ErrNotDir
	}
	if len(n.ents) > 0 {
		return 0, ErrNotEmpty
	}
	r.take(d, n, name)
	return n.ino, nil
}

// above reports whether top is ino or one of its parents.
func (r *refFS) above(top, ino uint64) bool {
	for ; ino != top; ino = r.nodes[ino].up {
		if ino == snap.RootIno {
			return false
		}
	}
	return true
}

func (r *refFS) rename(dir uint64, name string, newdir uint64, newname string, flags uint32) (replaced uint64, last bool, err error) {
	if flags > 2 {
		return 0, false, ErrInvalid
	}
	if err := refName(name, ErrBusy, ErrBusy); err != nil {
		return 0, false, err
	}
	dots := ErrBusy
	if flags == 1 {
		dots = ErrExist
	}
	if err := refName(newname, dots, dots); err != nil {
		return 0, false, err
	}
	d, err := r.getDir(dir)
	if err != nil {
		return 0, false, err
	}
	nd, err := r.getDir(newdir)
	if err != nil {
		return 0, false, err
	}
	if nd.nlink == 0 {
		return 0, false, ErrNotExist
	}
	_, n, err := r.old(dir, name)
	if err != nil {
		return 0, false, err
	}
	old := r.nodes[nd.ents[newname]]
	if err := r.mayRename(d, nd, n, old, flags); err != nil || old == n {
		return 0, false, err
	}
	if flags == 2 {
		r.swap(d, nd, n, old, name, newname)
		return 0, false, nil
	}
	if old != nil {
		r.take(nd, old, newname)
		replaced, last = old.ino, old.nlink == 0
	}
	delete(d.ents, name)
	d.size--
	nd.ents[newname] = n.ino
	nd.size++
	if n.dir() {
		d.nlink--
		nd.nlink++
		n.up = newdir
	}
	r.mtime(d)
	r.mtime(nd)
	r.ctime(n)
	return replaced, last, nil
}

func (r *refFS) mayRename(d, nd, n, old *refNode, flags uint32) error {
	switch {
	case old != nil && flags == 1:
		return ErrExist
	case old == nil && flags == 2:
		return ErrNotExist
	case d != nd && n.dir() && r.above(n.ino, nd.ino):
		return ErrInvalid
	case d != nd && old != nil && old.dir() && r.above(old.ino, d.ino):
		if flags == 2 {
			return ErrInvalid
		}
		return ErrNotEmpty
	case old == nil || old == n || flags == 2:
		return nil
	case n.dir() && !old.dir():
		return ErrNotDir
	case !n.dir() && old.dir():
		return ErrIsDir
	case len(old.ents) > 0:
		return ErrNotEmpty
	}
	return nil
}

func (r *refFS) swap(d, nd, n, old *refNode, name, newname string) {
	d.ents[name], nd.ents[newname] = old.ino, n.ino
	if n.dir() {
		d.nlink--
		nd.nlink++
		n.up = nd.ino
	}
	if old.dir() {
		nd.nlink--
		d.nlink++
		old.up = d.ino
	}
	r.mtime(d)
	r.mtime(nd)
	r.ctime(n)
	r.ctime(old)
}

func (r *refFS) forget(ino uint64) {
	if n := r.nodes[ino]; n != nil && n.nlink == 0 {
		r.remove(ino)
	}
}

// clean removes every orphan.
func (r *refFS) clean() {
	for _, ino := range slices.Clone(r.order) {
		r.forget(ino)
	}
}

func (r *refFS) setattr(ino uint64, c Cred, s SetAttr) (Attr, error) {
	n, err := r.get(ino)
	if err != nil {
		return Attr{}, err
	}
	if s.Mode != nil && n.typ() == syscall.S_IFLNK {
		return Attr{}, ErrNotSupported
	}
	if s.Size != nil {
		if _, err := r.getReg(ino); err != nil {
			return Attr{}, err
		}
		if *s.Size > 1<<44 {
			return Attr{}, ErrFileTooBig
		}
	}
	if s == (SetAttr{}) { // chown(-1, -1)
		if !c.Root && c.UID != 0 && c.UID != n.uid {
			return n.attr(), nil
		}
		uid := n.uid
		s.UID = &uid
	}
	r.ctime(n)
	if s.UID != nil || s.GID != nil || s.KillSuidGid {
		n.killSuid(c, s.KillSuidGid)
	}
	if s.UID != nil {
		n.uid = *s.UID
	}
	if s.GID != nil {
		n.gid = *s.GID
	}
	if s.Size != nil {
		n.truncate(*s.Size)
		r.mtime(n)
	}
	if (s.UID != nil || s.GID != nil || s.Size != nil) && !n.dir() {
		delete(n.xattrs, "security.capability")
	}
	if s.Mode != nil {
		n.mode = n.typ() | *s.Mode&07777
		if !c.in(n.gid) {
			n.mode &^= syscall.S_ISGID
		}
		n.chmodACL()
	}
	if s.Atime != nil {
		n.atime = *s.Atime
	}
	if s.Mtime != nil {
		n.mtime = *s.Mtime
	}
	if s.AtimeNow {
		n.atime = r.now
	}
	if s.MtimeNow {
		n.mtime = r.now
	}
	if s.Ctime != nil {
		n.ctime = *s.Ctime
	}
	return n.attr(), nil
}

func (n *refNode) killSuid(c Cred, plain bool) {
	if n.dir() {
		return
	}
	n.mode &^= syscall.S_ISUID
	member := c.GID == n.gid || c.Groups != nil && c.Groups(n.gid) || c.Root && !plain
	if n.mode&syscall.S_IXGRP != 0 || !member {
		n.mode &^= syscall.S_ISGID
	}
}

func (n *refNode) truncate(size uint64) {
	if size < n.size {
		n.zero(size, n.size-size)
		for b := range n.blocks {
			if b*refBlock >= size {
				delete(n.blocks, b)
			}
		}
	}
	n.size = size
}

// put writes one byte range inside a block.
func (n *refNode) put(block uint64, at int, p []byte) {
	b := new([refBlock]byte)
	if old := n.blocks[block]; old != nil {
		*b = *old
	}
	copy(b[at:], p)
	n.blocks[block] = b
}

// zero makes [off, off+len) zeros: whole blocks become holes.
func (n *refNode) zero(off, length uint64) {
	end := off + length
	for b := range n.blocks {
		from, to := max(off, b*refBlock), min(end, (b+1)*refBlock)
		switch {
		case from >= to:
		case to-from == refBlock:
			delete(n.blocks, b)
		default:
			n.put(b, int(from-b*refBlock), make([]byte, to-from))
		}
	}
}

func (n *refNode) write(p []byte, off uint64) {
	for len(p) > 0 {
		at := int(off % refBlock)
		k := min(len(p), refBlock-at)
		n.put(off/refBlock, at, p[:k])
		p, off = p[k:], off+uint64(k)
		n.size = max(n.size, off)
	}
}

func (n *refNode) read(off, length uint64) []byte {
	if off >= n.size {
		return nil
	}
	p := make([]byte, min(length, n.size-off))
	for i := 0; i < len(p); {
		at := int((off + uint64(i)) % refBlock)
		k := min(len(p)-i, refBlock-at)
		if b := n.blocks[(off+uint64(i))/refBlock]; b != nil {
			copy(p[i:i+k], b[at:])
		}
		i += k
	}
	return p
}

func (r *refFS) read(ino, off, length uint64) ([]byte, error) {
	n, err := r.getReg(ino)
	if err != nil {
		return nil, err
	}
	return n.read(off, length), nil
}

func (r *refFS) write(ino uint64, c Cred, p []byte, off uint64, w WriteFlags) (int, error) {
	n, err := r.getReg(ino)
	if err != nil || len(p) == 0 {
		return 0, err
	}
	if w.Append {
		off = n.size
	}
	if off >= 1<<44 {
		return 0, ErrFileTooBig
	}
	p = p[:min(uint64(len(p)), 1<<44-off)]
	r.modified(n, c, w.KillSuidGid)
	n.write(p, off)
	return len(p), nil
}

func (r *refFS) modified(n *refNode, c Cred, kill bool) {
	r.mtime(n)
	delete(n.xattrs, "security.capability")
	if kill {
		n.killSuid(c, true)
	}
}

func (r *refFS) fallocate(ino, off, length uint64, mode uint32) error {
	if length == 0 {
		return ErrInvalid
	}
	n, err := r.get(ino)
	if err != nil {
		return err
	}
	if !slices.Contains([]uint32{0, 1, 3, 0x10, 0x11}, mode) {
		return ErrNotSupported
	}
	switch n.typ() {
	case syscall.S_IFREG:
	case syscall.S_IFDIR:
		return ErrIsDir
	case syscall.S_IFIFO:
		return ErrSeek
	default:
		return ErrNoDevice
	}
	if off+length > 1<<44 {
		return ErrFileTooBig
	}
	if mode > 1 {
		n.zero(off, length)
	}
	if mode&1 == 0 {
		n.size = max(n.size, off+length)
	}
	r.modified(n, root, false)
	return nil
}

func (r *refFS) copyRange(src *refFS, srcIno, srcOff, ino, off, length uint64, c Cred) (uint64, error) {
	s, err := src.getReg(srcIno)
	if err != nil {
		return 0, err
	}
	n, err := r.getReg(ino)
	if err != nil {
		return 0, err
	}
	if srcOff >= s.size || length == 0 {
		return 0, nil
	}
	length = min(length, s.size-srcOff)
	if off >= 1<<44 {
		return 0, ErrFileTooBig
	}
	length = min(length, 1<<44-off)
	if s == n && srcOff < off+length && off < srcOff+length {
		return 0, ErrInvalid
	}
	r.modified(n, c, !c.Root)
	n.copyFrom(s, srcOff, off, length)
	return length, nil
}

// copyFrom copies block by block, without touching what is a hole in s.
func (n *refNode) copyFrom(s *refNode, srcOff, off, length uint64) {
	n.zero(off, length)
	n.size = max(n.size, off+length)
	for _, b := range slices.Sorted(maps.Keys(s.blocks)) {
		from, to := max(srcOff, b*refBlock), min(srcOff+length, (b+1)*refBlock)
		if from < to {
			n.write(s.read(from, to-from), off+from-srcOff)
		}
	}
}

// seekData returns the first block with a byte that is not zero, from off on.
func (n *refNode) seekData(off uint64) (uint64, bool) {
	at, found := uint64(0), false
	for b, data := range n.blocks {
		if *data == ([refBlock]byte{}) || (b+1)*refBlock <= off {
			continue
		}
		if x := max(off, b*refBlock); !found || x < at {
			at, found = x, true
		}
	}
	return at, found
}

func refXattrName(name string) error {
	if name == "" || len(name) > 255 {
		return ErrRange
	}
	if isRefACL(name) {
		return nil
	}
	prefix, rest, ok := strings.Cut(name, ".")
	switch prefix {
	case "user", "trusted", "security":
		if ok && rest == "" {
			return ErrInvalid
		}
		if ok {
			return nil
		}
	}
	return ErrNotSupported
}

func (n *refNode) noUserXattr(name string) bool {
	return !n.reg() && !n.dir() && strings.HasPrefix(name, "user.")
}

func (r *refFS) getxattr(ino uint64, name string) (string, error) {
	if err := refXattrName(name); err != nil {
		return "", err
	}
	n, err := r.get(ino)
	if err != nil {
		return "", err
	}
	val, ok := n.xattrs[name]
	if !ok {
		return "", ErrNoData
	}
	return val, nil
}

func (r *refFS) setxattr(ino uint64, name, val string, flags uint32) error {
	if flags > 3 {
		return ErrInvalid
	}
	if err := refXattrName(name); err != nil {
		return err
	}
	if len(val) > 65536 {
		return ErrTooBig
	}
	l, err := parseRefACL(val)
	if isRefACL(name) && err != nil {
		return err
	}
	n, err := r.get(ino)
	if err != nil {
		return err
	}
	if n.noUserXattr(name) {
		return ErrPermission
	}
	if isRefACL(name) && l == nil {
		return r.removexattr(ino, name)
	}
	if isRefACL(name) {
		return r.setACL(n, name, l)
	}
	_, there := n.xattrs[name]
	if there && flags&1 != 0 {
		return ErrExist
	}
	if !there && flags&2 != 0 {
		return ErrNoData
	}
	n.xattrs[name] = val
	r.ctime(n)
	return nil
}

func (r *refFS) setACL(n *refNode, name string, l refACL) error {
	if err := n.setACL(name, l); err != nil {
		return err
	}
	r.ctime(n)
	return nil
}

func (r *refFS) removexattr(ino uint64, name string) error {
	if err := refXattrName(name); err != nil {
		return err
	}
	n, err := r.get(ino)
	if err != nil {
		return err
	}
	if n.noUserXattr(name) {
		return ErrPermission
	}
	if isRefACL(name) && (n.typ() == syscall.S_IFLNK || n.xattrs[name] != "") {
		return r.setACL(n, name, nil)
	}
	if _, ok := n.xattrs[name]; !ok {
		if isRefACL(name) {
			return nil
		}
		return ErrNoData
	}
	delete(n.xattrs, name)
	r.ctime(n)
	return nil
}

func (r *refFS) listxattr(ino uint64) (string, error) {
	n, err := r.get(ino)
	if err != nil {
		return "", err
	}
	list := ""
	for _, name := range slices.Sorted(maps.Keys(n.xattrs)) {
		list += name + "\x00"
	}
	return list, nil
}

func (r *refFS) readlink(ino uint64) (string, error) {
	n, err := r.get(ino)
	if err != nil {
		return "", err
	}
	if n.typ() != syscall.S_IFLNK {
		return "", ErrInvalid
	}
	return n.target, nil
}

// listing is what a directory handle must show.
func (n *refNode) listing(r *refFS) []string {
	up := n.up
	if n.ino == snap.RootIno || n.nlink == 0 {
		up = n.ino
	}
	list := []string{fmt.Sprintf(". %d 40000", n.ino), fmt.Sprintf(".. %d 40000", up)}
	for _, name := range slices.Sorted(maps.Keys(n.ents)) {
		c := r.nodes[n.ents[name]]
		list = append(list, fmt.Sprintf("%s %d %o", name, c.ino, c.typ()))
	}
	return list
}

// dump writes a view down, a line for each inode. The real one has a method
// that writes the same.
func (r *refFS) dump() []string {
	var lines []string
	for ino, n := range r.nodes {
		line := dumpAttr(n.attr()) + dumpXattrs(n.xattrs)
		switch n.typ() {
		case syscall.S_IFDIR:
			line += fmt.Sprintf(" %q", n.listing(r))
		case syscall.S_IFLNK:
			line += fmt.Sprintf(" %q", n.target)
		case syscall.S_IFREG:
			line += " " + n.hash()
		}
		lines = append(lines, fmt.Sprintf("%08d", ino)+line)
	}
	sort.Strings(lines)
	return lines
}

func dumpAttr(a Attr) string {
	return fmt.Sprintf(" mode %o nlink %d uid %d gid %d rdev %d size %d times %v %v %v %v",
		a.Mode, a.Nlink, a.UID, a.GID, a.Rdev, a.Size, a.Atime, a.Mtime, a.Ctime, a.Btime)
}

func dumpXattrs(xs map[string]string) string {
	s := ""
	for _, name := range slices.Sorted(maps.Keys(xs)) {
		s += fmt.Sprintf(" %q=%.20q/%d/%x", name, xs[name], len(xs[name]), maphash.String(hashSeed, xs[name]))
	}
	return s
}

// hash is over the blocks that are not all zeros, and where they are.
func (n *refNode) hash() string {
	h := newBlockHash()
	for _, b := range slices.Sorted(maps.Keys(n.blocks)) {
		h.add(b, n.read(b*refBlock, refBlock))
	}
	return h.String()
}

type blockHash struct{ sum maphash.Hash }

var hashSeed = maphash.MakeSeed()

func newBlockHash() *blockHash {
	h := &blockHash{}
	h.sum.SetSeed(hashSeed)
	return h
}

func (h *blockHash) add(block uint64, data []byte) {
	data = bytes.TrimRight(data, "\x00")
	if len(data) == 0 {
		return
	}
	var at [16]byte
	binary.BigEndian.PutUint64(at[:], block)
	binary.BigEndian.PutUint64(at[8:], uint64(len(data)))
	h.sum.Write(at[:])
	h.sum.Write(data)
}

func (h *blockHash) String() string { return fmt.Sprintf("%016x", h.sum.Sum64()) }
