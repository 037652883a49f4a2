package dcdb

// AscendKeys is Ascend without the values, none of which is loaded: there may
// be a thousand xattrs of 64 KiB, and only their names are asked for.
func (db *DB) AscendKeys(kind ItemKind, from string, fn func(key string) bool) error {
	return db.n.cur.tree.ascend(db.tx, itemKey(kind, from), func(it *item) bool {
		return ItemKind(it.key[0]) == kind && fn(it.key[1:])
	})
}
