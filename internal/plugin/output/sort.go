package output

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
)

// ParseSort checks what follows --sort-by.
func ParseSort(field string) (string, error) {
	if field == "" {
		return "", nil
	}
	_, _, err := parsePath(field)
	return field, err
}

// Sort orders items by what the JSONPath field finds in their JSON form, numbers and quantities by
// their values. Items without the field come first, and equal ones stay in their order. An empty field
// leaves all as it is. The errors say that no item has the field, or that it has no order.
func Sort[T any](items []T, field string) error {
	if field == "" || len(items) == 0 {
		return nil
	}
	path, full, err := parsePath(field)
	if err != nil {
		return err
	}
	type keyed struct {
		key  any
		item T
	}
	list := make([]keyed, len(items))
	found := false
	for i, item := range items {
		list[i].item = item
		value, err := plain(item)
		if err != nil {
			return err
		}
		results, err := path.FindResults(value)
		if err != nil {
			return err
		}
		if len(results) > 0 && len(results[0]) > 0 {
			list[i].key, found = results[0][0].Interface(), true
		}
	}
	if !found {
		return fmt.Errorf("couldn't find any field with path %q in the list of objects", full)
	}
	slices.SortStableFunc(list, func(a, b keyed) int {
		order, e := compare(a.key, b.key)
		err = cmp.Or(err, e)
		return order
	})
	if err != nil {
		return fmt.Errorf("sorting by %s: %w", full, err)
	}
	for i := range list {
		items[i] = list[i].item
	}
	return nil
}

func compare(a, b any) (int, error) {
	switch {
	case a == nil && b == nil:
		return 0, nil
	case a == nil:
		return -1, nil
	case b == nil:
		return 1, nil
	}
	switch a := a.(type) {
	case string:
		if b, ok := b.(string); ok {
			return compareTexts(a, b), nil
		}
	case int64, float64:
		if y, ok := number(b); ok {
			x, _ := number(a)
			return cmp.Compare(x, y), nil
		}
	default:
		return 0, fmt.Errorf("unsortable type: %T", a)
	}
	return 0, fmt.Errorf("%T and %T have no order", a, b)
}

func compareTexts(a, b string) int {
	x, err := resource.ParseQuantity(a)
	y, err2 := resource.ParseQuantity(b)
	if err != nil || err2 != nil {
		return cmp.Compare(a, b)
	}
	return x.Cmp(y)
}

func number(value any) (float64, bool) {
	switch v := value.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}
