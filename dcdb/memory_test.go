package dcdb

import (
	"runtime"
	"testing"
	"weak"
)

// TestPastStatesAreLetGo: what lies in memory untouched, and was last changed
// beside something that changes all the time, keeps no past state of that.
func TestPastStatesAreLetGo(t *testing.T) {
	ts := newTestSpace(t, Options{})
	const hot, groups = 1, 50
	ts.create(hot)
	ts.sync()
	var past []weak.Pointer[state]
	for i := range uint64(groups) {
		ts.create(100 + i) // not touched again
		ts.update(func(tx *Tx) error {
			db, err := tx.DB(ts.live(hot))
			if err != nil {
				return err
			}
			db.Edit().Size++
			past = append(past, weak.Make(db.n.cur))
			return nil
		})
		ts.sync()
	}
	runtime.GC()
	kept := 0
	for _, p := range past {
		if p.Value() != nil {
			kept++
		}
	}
	if len(ts.nodes) <= groups {
		t.Fatalf("only %d nodes in memory: nothing is tested", len(ts.nodes))
	}
	if kept > 3 {
		t.Errorf("of %d past states %d are in memory", len(past), kept)
	}
}
