// Package must ends a test where what it needs fails.
package must

import (
	"os"
	"testing"
)

// Do ends the test if err is not nil.
func Do(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Get returns what gives value, or ends the test if err is not nil.
func Get[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		Do(t, err)
		return value
	}
}

// BeRoot skips a test that needs root, and says for what. Under CI=true it ends it instead.
func BeRoot(t testing.TB, what string) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("root is needed %s", what)
	}
	t.Skipf("root is needed %s", what)
}
