package powerdisk

import "math/rand/v2"

// fate draws what becomes of n writes that no flush has followed: keep(i), called
// for each page of write i in order, is asked for each sector in that page.
func fate(r *rand.Rand, n int) (keep func(i int) func() bool) {
	likely := r.Float64()
	draw := func() bool { return r.Float64() < likely }
	whole := func(kept bool) func() bool { return func() bool { return kept } }
	one := r.IntN(n + 1)
	switch r.IntN(8) {
	case 0:
		return func(int) func() bool { return whole(false) }
	case 1:
		return func(int) func() bool { return whole(true) }
	case 2: // in order up to one, which is torn
		return func(i int) func() bool {
			if i == one {
				return draw
			}
			return whole(i < one)
		}
	case 3:
		return func(i int) func() bool { return whole(i != one) }
	case 4:
		return func(i int) func() bool { return whole(i == one) }
	case 5: // whole writes
		kept := make([]bool, n)
		for i := range kept {
			kept[i] = draw()
		}
		return func(i int) func() bool { return whole(kept[i]) }
	case 6: // whole pages
		return func(int) func() bool { return whole(draw()) }
	default:
		return func(int) func() bool { return draw }
	}
}
