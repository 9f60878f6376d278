// Package lists is what the standard library does not do with lists.
package lists

import (
	"fmt"
	"strings"
)

// Map returns what f makes of each element of list, nil of none.
func Map[T, R any](list []T, f func(T) R) (made []R) {
	for _, one := range list {
		made = append(made, f(one))
	}
	return made
}

// Texts returns what the elements of list say.
func Texts[T fmt.Stringer](list []T) []string { return Map(list, T.String) }

// Join puts what the elements of list say into a line, with commas between them. Of more than most it
// says how many there are.
func Join[T fmt.Stringer](list []T, most int) string { return Words(Texts(list), most) }

// Words is Join for words.
func Words(words []string, most int) string {
	if more := len(words) - most; more > 0 {
		words = append(words[:most:most], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, ", ")
}
