package snap

import (
	"context"

	"dcfs/dcdb"
)

// A large file that was truncated has records beyond its end for a while. That is
// a flag in its head, and dcdb drops them; but after a crash nobody would load the
// head unasked. So there is a record of each such file.

// putExcess records whether the head of an inode has an end to be dropped, where it
// did not say so before; invariant (9).
func putExcess(b *dcdb.Builder, prefix, ino uint64, has, had bool) {
	k := key(keyExcess, prefix, ino)
	switch {
	case has:
		b.Put(k, []byte{})
	case had:
		b.Delete(k)
	}
}

// loadExcess returns the files that were truncated and not trimmed.
func (v *Volume) loadExcess(ctx context.Context) ([]dcdb.Key, error) {
	var files []dcdb.Key
	for _, f := range v.forks {
		some, err := v.excessOf(ctx, f)
		if err != nil {
			return nil, err
		}
		files = append(files, some...)
	}
	return files, nil
}

// excessOf returns the files of one fork that were truncated and not trimmed. Those
// of a fork without live state stay as they are: only a kept counter shows them.
func (v *Volume) excessOf(ctx context.Context, f *fork) ([]dcdb.Key, error) {
	if !f.live {
		return nil, nil
	}
	var files []dcdb.Key
	for _, prefix := range [...]uint64{f.moving, f.prefix} {
		if prefix == 0 {
			continue
		}
		err := scan(ctx, v.st, key(keyExcess, prefix), func(k, _ []byte) error {
			n, err := keyNums(k, 2)
			if err == nil {
				files = append(files, f.view.Key(n[1]))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}
