package api

// Annotation of a pod or its namespace asks for a gateway with the value "true" and against one with
// "false". That of a pod counts more than that of its namespace.
const Annotation = "kube-gateway.io"

// Annotations and labels of pods begin with AnnotationPrefix, but for Annotation itself.
const AnnotationPrefix = Annotation + "/"

// LabelMode is the label of a pod that shows the mode of its gateway. Nothing depends on it.
const LabelMode = AnnotationPrefix + "mode"
