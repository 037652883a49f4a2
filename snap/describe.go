package snap

import (
	"fmt"

	"dcfs/dcdb"
)

// describedAs says what the records of each kind are.
var describedAs = map[byte]string{
	keyVolume: "the volume", keyFork: "fork", keySnap: "snapshot", keyHead: "inode", keySaved: "a past state of inode", keyIndex: "index of heads",
	keyDead: "dead list", keySum: "sum of a dead list", keyBulk: "dropped tree", keyTask: "reclamation", keyExcess: "list of files to be trimmed",
	keyExtra: "count of references", keyViews: "free view number", keyHold: "hold", keyExpiry: "expiry", keyPolicy: "retention policy",
	dcdb.FreePrefix()[0]: "list of freed objects",
}

// Describe says what the record under a key is: its kind, and inode and fork where
// the key has them.
func (v *Volume) Describe(k []byte) string {
	if len(k) == 0 || describedAs[k[0]] == "" {
		return "unknown record"
	}
	what := describedAs[k[0]]
	switch k[0] {
	case keyVolume, keyExtra, keyViews, dcdb.FreePrefix()[0]:
		return what
	}
	if len(k) < 1+8 {
		return what
	}
	place, _ := keyNums(k[:9], 1)
	fork := fmt.Sprintf("fork %d", place[0])
	v.space.Locked(func() {
		for _, f := range v.forks {
			if f.live && (f.prefix == place[0] || f.moving == place[0] || k[0] == keyFork && f.id == place[0]) {
				fork = "fork " + v.pathName(f)
			}
		}
	})
	switch {
	case k[0] == keyFork:
		return fork
	case (k[0] == keyHead || k[0] == keySaved) && len(k) >= 1+16:
		n, _ := keyNums(k[:17], 2)
		return fmt.Sprintf("%s %d of %s", what, n[1], fork)
	}
	return what + " of " + fork
}
