package api

// Annotation of a pod or its namespace asks for a gateway with the value "true" and against one with
// "false". That of a pod counts more than that of its namespace.
const Annotation = "kube-gateway.io"
