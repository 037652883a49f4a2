package powerdisk

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

const fileName = "disk"

// Server serves a Disk as a file.
type Server struct {
	Path string // of the file

	disk   *Disk
	dir    string
	server *fuse.Server
}

// Serve mounts a file system on dir that has one file, d.
func Serve(d *Disk, dir string) (*Server, error) {
	root := &fusefs.Inode{}
	s, err := fusefs.Mount(dir, root, &fusefs.Options{
		MountOptions: fuse.MountOptions{
			Name: "powerdisk", FsName: "powerdisk", DirectMount: true,
			DisableSplice: true, MaxWrite: 1 << 20, MaxBackground: 64,
		},
		OnAdd: func(ctx context.Context) {
			root.AddChild(fileName, root.NewPersistentInode(ctx, &file{disk: d}, fusefs.StableAttr{Mode: syscall.S_IFREG}), false)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("serve a disk on %s: %w", dir, err)
	}
	return &Server{Path: filepath.Join(dir, fileName), disk: d, dir: dir, server: s}, nil
}

// Close unmounts the file, once nobody has it open any more. A process that made a
// mount namespace meanwhile may have it for long: a dead disk, which does nothing
// more, is left to it.
func (s *Server) Close() error {
	var err error
	for range 400 {
		if err = syscall.Unmount(s.dir, 0); err != syscall.EBUSY {
			break
		}
		time.Sleep(25 * time.Millisecond)
	}
	if err == syscall.EBUSY && s.disk.isDead() {
		return syscall.Unmount(s.dir, syscall.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("unmount the disk on %s: %w", s.dir, err)
	}
	s.server.Wait()
	return nil
}

// file is a Disk to FUSE.
type file struct {
	fusefs.Inode
	disk *Disk
}

var (
	_ fusefs.NodeGetattrer = (*file)(nil)
	_ fusefs.NodeOpener    = (*file)(nil)
	_ fusefs.NodeReader    = (*file)(nil)
	_ fusefs.NodeWriter    = (*file)(nil)
	_ fusefs.NodeFsyncer   = (*file)(nil)
	_ fusefs.NodeAllocater = (*file)(nil)
)

func (f *file) Getattr(_ context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = syscall.S_IFREG | 0o600
	out.Size = uint64(f.disk.size)
	return 0
}

func (f *file) Open(context.Context, uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	return nil, 0, 0
}

func (f *file) Read(_ context.Context, _ fusefs.FileHandle, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	p = p[:max(0, min(int64(len(p)), f.disk.size-off))]
	if _, err := f.disk.ReadAt(p, off); err != nil {
		return nil, syscall.EIO
	}
	return fuse.ReadResultData(p), 0
}

func (f *file) Write(_ context.Context, _ fusefs.FileHandle, p []byte, off int64) (uint32, syscall.Errno) {
	n, err := f.disk.WriteAt(p, off)
	if err != nil {
		return 0, syscall.EIO
	}
	return uint32(n), 0
}

func (f *file) Fsync(context.Context, fusefs.FileHandle, uint32) syscall.Errno {
	if f.disk.Flush() != nil {
		return syscall.EIO
	}
	return 0
}

// Allocate answers a loop device that discards a range, or wants it zero: as a
// write of zeros, durable with the next flush.
func (f *file) Allocate(_ context.Context, _ fusefs.FileHandle, off, size uint64, _ uint32) syscall.Errno {
	const most = 1 << 20
	for end := off + size; off < end; {
		n := min(end-off, most)
		if _, err := f.disk.WriteAt(make([]byte, n), int64(off)); err != nil {
			return syscall.EIO
		}
		off += n
	}
	return 0
}
