package snap

import (
	"encoding/binary"
	"math"

	"dcfs/spill"
)

// death is an entry of a dead list of a head.
type death struct {
	ino          uint64
	inherited    bool
	since, death uint64
}

const deathBytes = 8 + 1 + 8 + 8

// append orders the entries as the heads are: by inode, the newest first. What
// was inherited comes before them.
func (d *death) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, d.ino)
	if d.inherited {
		b = append(b, 0)
	} else {
		b = append(b, 1)
	}
	b = binary.BigEndian.AppendUint64(b, ^d.since)
	return binary.BigEndian.AppendUint64(b, d.death)
}

func decodeDeath(b []byte) death {
	u64 := binary.BigEndian.Uint64
	return death{ino: u64(b), inherited: b[8] == 0, since: ^u64(b[9:]), death: u64(b[17:])}
}

// deaths goes through the heads on a fork's dead list.
type deaths struct {
	rows *spill.Rows
	head death // the next one; its inode is the highest number after the last
}

func newDeaths(rows *spill.Rows) (*deaths, error) {
	ds := &deaths{rows: rows}
	return ds, ds.next()
}

func (ds *deaths) next() error {
	row, err := ds.rows.Next()
	if err != nil {
		return err
	}
	ds.head = death{ino: math.MaxUint64}
	if row != nil {
		ds.head = decodeDeath(row)
	}
	return nil
}

// inherited takes what an inode had inherited, by the list, and returns since
// when: one entry, if any.
func (ds *deaths) inherited(ino uint64) (since []uint64, err error) {
	for ds.head.ino == ino && ds.head.inherited {
		if len(since) < 2 {
			since = append(since, ds.head.since)
		}
		if err := ds.next(); err != nil {
			return nil, err
		}
	}
	return since, nil
}
