{{- define "espalier.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* Short enough that what is added to it (-train-<n>) still is a name. */ -}}
{{- define "espalier.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "espalier.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "espalier.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "espalier.selector" -}}
app.kubernetes.io/name: {{ include "espalier.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "espalier.labels" -}}
{{ include "espalier.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "espalier.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "espalier.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* Of a dict of `image` and `Chart`. */ -}}
{{- define "espalier.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{- define "espalier.port" -}}
{{- range $name := list "port" "admin_port" -}}
{{- if and (hasKey $.Values.settings $name) (not (get $.Values.settings $name)) -}}
{{- fail (printf "settings.%s must be a port: 0 would be a different one at each start" $name) -}}
{{- end -}}
{{- end -}}
{{- default 8000 .Values.settings.port | int -}}
{{- end -}}

{{- /* Name of the port of metrics and publishing: the main one where no other is set. */ -}}
{{- define "espalier.adminPortName" -}}
{{- if .Values.settings.admin_port -}}admin{{- else -}}http{{- end -}}
{{- end -}}

{{- define "espalier.scheme" -}}
{{- if .Values.tls.existingSecret -}}HTTPS{{- else -}}HTTP{{- end -}}
{{- end -}}
