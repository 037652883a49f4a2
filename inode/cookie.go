package inode

import (
	"cmp"
	"slices"
)

// indexStep is how many entries of a frozen directory lie between two whose
// names the index keeps.
const indexStep = 64

// cookieIndex finds the entry that has a cookie in one frozen version of a
// directory. It takes 16 bytes for each entry and a name for each
// indexStep-th, and is made when a cookie comes from elsewhere.
type cookieIndex struct {
	places []cookiePlace // by cookie, once sorted
	names  []string      // of entries 0, indexStep, 2*indexStep ...
}

// cookiePlace is the position of an entry in the order of the names.
type cookiePlace struct {
	cookie uint64
	nth    uint32
}

// add takes the next entry in the order of the names.
func (x *cookieIndex) add(e Dirent) {
	n := len(x.places)
	if n%indexStep == 0 {
		x.names = append(x.names, e.Name)
	}
	x.places = append(x.places, cookiePlace{e.Cookie, uint32(n)})
}

// sort makes find possible, after the last add.
func (x *cookieIndex) sort() {
	slices.SortFunc(x.places, func(a, b cookiePlace) int { return cmp.Compare(a.cookie, b.cookie) })
}

// find returns a name at or before the entry and how many entries to skip
// from there.
func (x *cookieIndex) find(cookie uint64) (from string, skip int, ok bool) {
	i, ok := slices.BinarySearchFunc(x.places, cookie, func(p cookiePlace, c uint64) int { return cmp.Compare(p.cookie, c) })
	if !ok {
		return "", 0, false
	}
	nth := int(x.places[i].nth)
	return x.names[nth/indexStep], nth % indexStep, true
}
