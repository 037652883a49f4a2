package snap

import (
	"bytes"
	"context"

	"dcfs/dcdb/store"
)

// queueCursor reads a queue whose records are removed as they are done with. It begins
// where it found one the last time: Badger keeps a mark of each record that was
// removed, and to begin at the front would walk through all of them in every
// step. What was added in front of it is found by the pass from the front without
// which no queue is taken for empty.
type queueCursor struct {
	from []byte // the front of the queue that it was in
	at   []byte
}

// scan returns the first records of a queue, up to limit. None are left if it
// returns none.
func (c *queueCursor) scan(ctx context.Context, st store.Store, from, to []byte, limit int) ([]store.Record, error) {
	recs, err := st.Scan(ctx, c.begin(from), to, limit)
	if err == nil && len(recs) == 0 && c.at != nil {
		*c = queueCursor{}
		recs, err = st.Scan(ctx, c.begin(from), to, limit)
	}
	if err == nil && len(recs) > 0 {
		c.at = recs[0].Key
	}
	return recs, err
}

// begin returns where to go on in a queue.
func (c *queueCursor) begin(from []byte) []byte {
	if !bytes.Equal(c.from, from) {
		*c = queueCursor{from: from}
	}
	if c.at != nil {
		return c.at
	}
	return from
}
