{{- define "valence.name" -}}
{{- default "valence" .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "valence.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "valence.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "valence.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What never changes in a release's life: a Deployment's selector can't. The name is constant: it is the job of the alerts. */}}
{{- define "valence.selectorLabels" -}}
app.kubernetes.io/name: valence
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "valence.labels" -}}
{{ include "valence.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "valence.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* A setting as its variable holds it. Helm's numbers are floats: `quote` alone would write 2000000 as 2e+06. */}}
{{- define "valence.setting" -}}
{{- if kindIs "string" . }}{{ . }}{{ else if kindIs "slice" . }}{{ join "," . }}{{ else }}{{ toJson . }}{{ end }}
{{- end }}

{{/* `name=folder` or `name=org/repo@commit` of each model. */}}
{{- define "valence.models" -}}
{{- $models := list }}
{{- range .Values.models }}
{{- $models = append $models (printf "%s=%s" .name (default (printf "%s@%s" .repo .commit) .path)) }}
{{- end }}
{{- join "," $models }}
{{- end }}

{{/* The repositories to fetch, as JSON; empty where there are none. */}}
{{- define "valence.fetched" -}}
{{- $fetched := list }}
{{- range .Values.models }}
{{- if .repo }}{{ $fetched = append $fetched (printf "%s@%s" .repo .commit) }}{{ end }}
{{- end }}
{{- if $fetched }}{{ uniq $fetched | toJson }}{{ end }}
{{- end }}

{{/* Whether /modules is mounted: one of the three sources. */}}
{{- define "valence.modulesMounted" -}}
{{- with .Values.modules }}{{ if or .files .configMap .claim }}true{{ end }}{{ end }}
{{- end }}

{{/* The fewest pods that are wanted. */}}
{{- define "valence.leastReplicas" -}}
{{- if eq .Values.autoscaling.mode "none" }}{{ .Values.replicas }}{{ else }}{{ .Values.autoscaling.minReplicas }}{{ end }}
{{- end }}

{{- define "valence.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* How fast either autoscaler may move. */}}
{{- define "valence.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: {{ .scaleUp.stabilizationWindowSeconds }}
  selectPolicy: Max
  policies:
    - {type: Pods, value: {{ .scaleUp.pods }}, periodSeconds: {{ .scaleUp.periodSeconds }}}
    - {type: Percent, value: {{ .scaleUp.percent }}, periodSeconds: {{ .scaleUp.periodSeconds }}}
scaleDown:
  stabilizationWindowSeconds: {{ .scaleDown.stabilizationWindowSeconds }}
  policies:
    - {type: Percent, value: {{ .scaleDown.percent }}, periodSeconds: {{ .scaleDown.periodSeconds }}}
{{- end }}
