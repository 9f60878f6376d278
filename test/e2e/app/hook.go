package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

// portHook is where "app hook" listens.
const portHook = 8443

// forbidden is the key that the webhook denies in an object's data.
const forbidden = "forbidden"

// object is any object of the API.
type object = map[string]any

// review is an AdmissionReview or a ConversionReview: their frames are the same.
type review struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Request    struct {
		UID               string   `json:"uid"`
		Object            object   `json:"object"`
		DesiredAPIVersion string   `json:"desiredAPIVersion"`
		Objects           []object `json:"objects"`
	} `json:"request"`
}

// hookCommand is "app hook CERTIFICATE KEY". It is what an API server connects to: a
// validating webhook at /validate, a conversion webhook at /convert, and an aggregated API.
// Each request needs a new connection.
func hookCommand(ctx context.Context, args []string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /validate", answer(validate))
	mux.HandleFunc("POST /convert", answer(convert))
	mux.HandleFunc("GET /apis/{group}/{version}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(object{"kind": "APIResourceList", "apiVersion": "v1", "resources": []any{},
			"groupVersion": r.PathValue("group") + "/" + r.PathValue("version")})
	})
	server := &http.Server{Addr: ":" + strconv.Itoa(portHook), Handler: mux}
	server.SetKeepAlivesEnabled(false)
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.ListenAndServeTLS(args[0], args[1]); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// answer returns a handler that answers a review with the response that respond makes.
func answer(respond func(review) object) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var asked review
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		response := respond(asked)
		response["uid"] = asked.Request.UID
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(object{"apiVersion": asked.APIVersion, "kind": asked.Kind, "response": response})
	}
}

func validate(asked review) object {
	data, _ := asked.Request.Object["data"].(object)
	if _, found := data[forbidden]; found {
		return object{"allowed": false, "status": object{"message": fmt.Sprintf("%q is not allowed", forbidden)}}
	}
	return object{"allowed": true}
}

func convert(asked review) object {
	for _, o := range asked.Request.Objects {
		o["apiVersion"] = asked.Request.DesiredAPIVersion
	}
	return object{"convertedObjects": asked.Request.Objects, "result": object{"status": "Success"}}
}
