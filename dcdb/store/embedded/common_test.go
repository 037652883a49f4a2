package embedded

import "testing"

func TestCommonIsWhatAllKeysOfARangeBeginWith(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"", "", ""},
		{"b", "", ""},
		{"b", "c", "b"},
		{"bxyz", "c", "b"},
		{"b", "d", ""},
		{"bxy", "bxz", "bxy"},
		{"bxyab", "bxz", "bxy"},
		{"bxa", "bxz", "bx"},
		{"bx", "bxz", "bx"},
		{"bx", "by\x00", "b"},
		{"b\xff", "c", "b"},
		{"b\xff\xff", "c\x00", ""},
		{"c", "b", ""},
		{"bx", "b", "b"},
	} {
		if got := string(common([]byte(c.from), []byte(c.to))); got != c.want {
			t.Errorf("common(%q, %q) = %q, want %q", c.from, c.to, got, c.want)
		}
	}
}
