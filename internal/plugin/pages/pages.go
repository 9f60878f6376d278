// Package pages reads long lists in chunks: these bound the memory of the server and of
// this program.
package pages

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"
)

// Each calls do for every object of what list, a method of client-go, returns.
func Each[List, Object runtime.Object](ctx context.Context, options metav1.ListOptions,
	list func(context.Context, metav1.ListOptions) (List, error), do func(Object)) error {
	return pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return list(ctx, options)
	}).EachListItem(ctx, options, func(object runtime.Object) error {
		do(object.(Object))
		return nil
	})
}
