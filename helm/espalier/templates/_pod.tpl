{{- define "espalier.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int .Values.user }}
runAsGroup: {{ int .Values.user }}
fsGroup: {{ int .Values.user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "espalier.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* The store's URL: from a secret into a variable, never into a manifest; one without a password as it is. */ -}}
{{- define "espalier.storeEnv" -}}
{{- $secret := .Values.store.existingSecret -}}
{{- if and $secret.name .Values.store.url -}}
{{- fail "set store.url or store.existingSecret.name, not both" -}}
{{- end -}}
{{- if $secret.name -}}
- name: ESPALIER_STORE
  valueFrom: {secretKeyRef: {name: {{ $secret.name }}, key: {{ $secret.key }}}}
{{- else -}}
- name: ESPALIER_STORE
  value: {{ required "set store.existingSecret.name, or store.url where the URL holds no password" .Values.store.url | quote }}
{{- end -}}
{{- end -}}

{{- define "espalier.credentials" -}}
{{- with .Values.store.credentialsSecret -}}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end -}}
{{- end -}}

{{- /* A volume of a dict of `name` and `of`: the claim `existingClaim`, or one of the pod's own (type, size, storageClass). */ -}}
{{- define "espalier.volume" -}}
- name: {{ .name }}
{{- if .of.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .of.existingClaim }}}
{{- else if eq .of.type "ephemeral" }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .of.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources: {requests: {storage: {{ .of.size }}}}
{{- else }}
  emptyDir: {sizeLimit: {{ .of.size }}}
{{- end }}
{{- end -}}

{{- /* Where a probe asks: the kubelet has no client certificate, so with mutual TLS the container asks itself. */ -}}
{{- define "espalier.probe" -}}
{{- if .root.Values.tls.clientCa.name -}}
exec:
  command: [python, /opt/espalier/healthcheck.py, --config, /etc/espalier/espalier.yaml, {{ .probe }}]
{{- else -}}
httpGet: {path: /healthz/{{ .probe }}, port: http, scheme: {{ include "espalier.scheme" .root }}}
{{- end }}
{{ toYaml .of }}
{{- end -}}

{{- define "espalier.gpuScheduling" -}}
{{- $gpu := .root.Values.gpu -}}
{{- with .on | ternary $gpu.runtimeClassName "" }}
runtimeClassName: {{ . }}
{{- end }}
{{- with merge (dict) (deepCopy .nodeSelector) (.on | ternary $gpu.nodeSelector dict) }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat .tolerations (.on | ternary $gpu.tolerations list) }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "espalier.resources" -}}
{{- $resources := deepCopy .of -}}
{{- if .on -}}
{{- $gpu := dict .root.Values.gpu.resource (int .root.Values.gpu.count) -}}
{{- $resources = merge (dict "limits" (merge $gpu (default dict $resources.limits))) $resources -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
