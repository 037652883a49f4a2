package dcdb

import (
	"fmt"
	"slices"
)

// DB is one DCDB as a transaction sees it. It is good only while the
// transaction runs.
type DB struct {
	tx *Tx
	n  *node
}

// Key returns the key that the DCDB was asked for by.
func (db *DB) Key() Key { return db.n.key }

// Now is the time of the transaction's changes.
func (db *DB) Now() Time { return db.tx.Now() }

// Attr returns the attributes, to be read only.
func (db *DB) Attr() *Attr { return &db.n.cur.Attr }

// Edit returns the attributes, to be changed. The DCDB becomes part of the open
// group.
func (db *DB) Edit() *Attr { return &db.edit().Attr }

func (db *DB) edit() *state {
	s, n := db.tx.s, db.n
	if !db.tx.update || n.key.At != Live {
		panic("dcdb: change of " + n.key.String() + " in a view that is not live, or outside an update")
	}
	db.tx.changed = true
	if n.cur.gen != s.gen {
		c := *n.cur
		c.gen = s.gen
		n.cur = &c
	}
	if n.entry == nil || n.entry.g != s.open {
		if s.nodes[n.key] != n {
			s.insert(n) // what this transaction created took its place
		}
		n.entry = &entry{n: n, g: s.open}
		n.pending++
		n.cur.rebuilt = false
		s.open.add(n.entry)
	}
	n.cur.Changed = s.rules.Counter(n.key.Fork)
	n.entry.state = n.cur
	if !slices.Contains(db.tx.edited, n) {
		db.tx.edited = append(db.tx.edited, n)
	}
	return n.cur
}

// Delete ends the DCDB: nothing of it is left, whatever its size.
func (db *DB) Delete() {
	db.edit().Deleted = true
	if c := db.n.committed; c != nil && c.tree.root != nil && c.tree.depth == 0 && len(c.tree.root.slots) == 1 {
		if p := c.tree.root.slots[0].page; p != nil { // what it refers to is dropped one by one
			for i := range p.items {
				db.tx.dropRefs(p.items[i].pieces, nil)
			}
		}
	}
}

func itemKey(kind ItemKind, key string) string { return string(kind) + key }

// Get returns the value of a key, and whether there is one. The caller must not
// change it.
func (db *DB) Get(kind ItemKind, key string) ([]byte, bool, error) {
	it, err := db.item(itemKey(kind, key))
	if it == nil || err != nil {
		return nil, false, err
	}
	val, err := db.tx.value(it)
	return val, err == nil, err
}

// item finds an item, and brings into memory what putting it would need.
func (db *DB) item(key string) (*item, error) {
	t := &db.n.cur.tree
	it, err := t.get(db.tx, key)
	if err == nil && db.tx.update {
		err = t.room(db.tx)
	}
	return it, err
}

// value returns an item's value, from its piece if it is a long one.
func (tx *Tx) value(it *item) ([]byte, error) {
	if len(it.pieces) == 0 {
		return it.val, nil
	}
	buf := make([]byte, it.pieces[0].n)
	return buf, tx.copyPiece(buf, &it.pieces[0], 0)
}

// Put sets the value of a key, which must have been asked for in this
// transaction. val is kept and must not change any more.
func (db *DB) Put(kind ItemKind, key string, val []byte) {
	if len(val) > RecordBytes {
		panic(fmt.Sprintf("dcdb: value of %d bytes", len(val)))
	}
	st := db.edit()
	it := item{key: itemKey(kind, key), val: val}
	if len(val) > MaxInlineValue {
		it.val = nil
		it.pieces = []piece{{n: uint32(len(val)), since: st.Changed, c: db.tx.s.newContent(val)}}
	}
	st.tree.put(db.tx, it)
}

// Remove takes a key out, which must have been asked for in this transaction.
func (db *DB) Remove(kind ItemKind, key string) {
	db.edit().tree.remove(db.tx, itemKey(kind, key))
}

// Ascend calls fn for the keys of a kind from from on, in order, until it
// returns false.
func (db *DB) Ascend(kind ItemKind, from string, fn func(key string, val []byte) bool) error {
	return db.n.cur.tree.ascendKind(db.tx, kind, from, fn)
}

func (t *tree) ascendKind(tx *Tx, kind ItemKind, from string, fn func(key string, val []byte) bool) error {
	var inner error
	err := t.ascend(tx, itemKey(kind, from), func(it *item) bool {
		if ItemKind(it.key[0]) != kind {
			return false
		}
		var val []byte
		if val, inner = tx.value(it); inner != nil {
			return false
		}
		return fn(it.key[1:], val)
	})
	if err == nil {
		err = inner
	}
	return err
}

// Empty reports whether there is no key of a kind.
func (db *DB) Empty(kind ItemKind) (bool, error) {
	empty := true
	err := db.Ascend(kind, "", func(string, []byte) bool { empty = false; return false })
	return empty, err
}
