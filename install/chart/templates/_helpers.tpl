{{- /* A reference to an image: (list . IMAGE) */ -}}
{{- define "image" -}}
{{- $root := index . 0 -}}
{{- with index . 1 -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $root.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}
