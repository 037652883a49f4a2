package snap

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestKindsAreAll: a kind of record that is not among kinds is unknown to a check,
// and no test would damage it.
func TestKindsAreAll(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "keys.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(v.Names[0].Name, "key") {
			return true
		}
		c, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		if err != nil || !slices.Contains(Kinds(), c[0]) || describedAs[c[0]] == "" {
			t.Errorf("%s is not one of the kinds, or not described (%v)", v.Names[0].Name, err)
		}
		found++
		return true
	})
	if found+1 != len(Kinds()) { // one is of package dcdb
		t.Errorf("%d keys and %d kinds", found, len(Kinds()))
	}
}
