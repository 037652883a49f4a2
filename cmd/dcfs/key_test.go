package main

import (
	"strings"
	"testing"
)

func TestLogLinesWithoutNames(t *testing.T) {
	for line, want := range map[string]string{
		"commit group 7: no space\n":                                "commit group 7: no space\n",
		`input/output error: rename 5/"a b": corrupt` + "\n":        `input/output error: rename 5/"...": corrupt` + "\n",
		`snapshot "s\"x" of fork "f" is held ("t")` + "\n":          `snapshot "..." of fork "..." is held ("...")` + "\n",
		`unmounting /mnt/in"ch: lookup 1/"name": "other"` + "\n":    "unmounting /mnt/in...\n",
		`unmounting /mnt/"quoted": lookup 1/"name": broken` + "\n":  `unmounting /mnt/"...": lookup 1/"...": broken` + "\n",
		`fork "it says \\" stays: "why"` + "\n":                     `fork "..." stays: "..."` + "\n",
		`erasing objects of group 9: object 9.1.4+100: gone` + "\n": `erasing objects of group 9: object 9.1.4+100: gone` + "\n",
	} {
		if got := withoutNames(line); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

func TestNoKeysInTheEnvironmentOfAServer(t *testing.T) {
	got := withoutKeys([]string{"PATH=/bin", "DCFS_PASSPHRASE=a=b", "DCFS_KEY_FILE=/k", "DCFS_NEW_PASSPHRASE=", "DCFS_NEW_KEY_FILE=x", "DCFS=1"})
	if strings.Join(got, " ") != "PATH=/bin DCFS=1" {
		t.Errorf("got %q", got)
	}
}

// TestVerbsThatOpenAStoreTakeAKey wants the same flag wherever a store or a target
// is named, but where a key can't be of use.
func TestVerbsThatOpenAStoreTakeAKey(t *testing.T) {
	for _, v := range verbs {
		names := strings.Contains(v.args, "STORE") || strings.Contains(v.args, "TARGET")
		if v != serveVerb && v.opens != names {
			t.Errorf("%s %s: takes a key: %v", v.name, v.args, v.opens)
		}
	}
}
