package inode

import (
	"context"

	"dcfs/snap"
)

// BlockBytes is the block size that Statfs counts in.
const BlockBytes = 4096

// maxFiles is the number of inodes that Statfs promises. Nothing bounds it
// but space; programs that test for free inodes want a number.
const maxFiles = 1 << 40

// Statfs is what statfs(2) tells.
type Statfs struct {
	BlockSize           uint32 // bytes of a block
	Blocks, Free, Avail uint64 // blocks: in all, free, free for ordinary users
	Files, FilesFree    uint64 // inodes
	NameLen             uint32
}

// Statfs tells the size and the free space of the store.
func (f *FS) Statfs(ctx context.Context, v *snap.View) (Statfs, error) {
	o := op{"statfs", snap.RootIno, ""}
	if err := v.Err(); err != nil {
		return Statfs{}, o.wrap(err)
	}
	u, err := f.vol.Usage(ctx)
	if err != nil {
		return Statfs{}, o.wrap(err)
	}
	free := u.FreeBytes / BlockBytes
	return Statfs{
		BlockSize: BlockBytes,
		Blocks:    u.TotalBytes / BlockBytes, Free: free, Avail: free,
		Files: maxFiles, FilesFree: maxFiles,
		NameLen: MaxName,
	}, nil
}
