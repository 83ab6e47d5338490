{{- /* The spec of one training run, shared by the Job and the CronJob: prepare, train, then publish. */ -}}
{{- define "espalier.trainingRun" -}}
{{- $training := .Values.training -}}
{{- $image := include "espalier.image" (dict "image" $training.image "Chart" .Chart) -}}
backoffLimit: {{ int $training.backoffLimit }}
activeDeadlineSeconds: {{ int $training.activeDeadlineSeconds }}
ttlSecondsAfterFinished: {{ int $training.ttlSecondsAfterFinished }}
template:
  metadata:
    labels:
      {{- include "espalier.labels" . | nindent 6 }}
      app.kubernetes.io/component: training
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "espalier.serviceAccount" . }}
    automountServiceAccountToken: false
    enableServiceLinks: false
    securityContext: {{- include "espalier.podSecurity" . | nindent 6 }}
    {{- with .Values.image.pullSecrets }}
    imagePullSecrets: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- include "espalier.gpuScheduling" (dict "root" . "on" $training.gpu "nodeSelector" $training.nodeSelector "tolerations" $training.tolerations) | indent 4 }}
    initContainers:
      {{- with $training.prepareArgs }}
      - name: prepare
        args: {{- toYaml . | nindent 10 }}
        {{- include "espalier.trainingContainer" (dict "root" $ "image" $image "gpu" false) | nindent 8 }}
      {{- end }}
      - name: train
        args: [train, all, --config, /etc/espalier-training/train.yaml, --data, {{ $training.data.path }}, --out, /runs/run, --resume]
        {{- include "espalier.trainingContainer" (dict "root" . "image" $image "gpu" $training.gpu) | nindent 8 }}
    containers:
      - name: publish
        args: {{- concat (list "publish" "/runs/run") $training.publishArgs | toYaml | nindent 10 }}
        {{- with include "espalier.credentials" . }}
        {{- . | nindent 8 }}
        {{- end }}
        env:
          {{- include "espalier.storeEnv" . | nindent 10 }}
          - name: JOB_NAME
            valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}
          # whom the records and the audit lines name
          - {name: ESPALIER_BY, value: $(JOB_NAME)}
        {{- include "espalier.trainingContainer" (dict "root" . "image" $image "gpu" false "env" true) | nindent 8 }}
    volumes:
      - name: config
        configMap: {name: {{ include "espalier.fullname" . }}-training}
      - name: tmp
        emptyDir: {}
      - name: data
        {{- if $training.data.existingClaim }}
        persistentVolumeClaim: {claimName: {{ $training.data.existingClaim }}}
        {{- else }}
        emptyDir: {}
        {{- end }}
      {{- if $training.runs.existingClaim }}
      - name: runs
        persistentVolumeClaim: {claimName: {{ $training.runs.existingClaim }}}
      {{- else }}
      {{- include "espalier.volume" (dict "name" "runs" "of" (dict "type" "ephemeral" "size" $training.runs.size "storageClass" $training.runs.storageClass)) | nindent 6 }}
      {{- end }}
{{- end -}}

{{- define "espalier.trainingContainer" -}}
{{- $training := .root.Values.training -}}
image: {{ .image }}
imagePullPolicy: {{ $training.image.pullPolicy }}
securityContext: {{- include "espalier.containerSecurity" .root | nindent 2 }}
{{- if not .env }}
env:
  - name: JOB_NAME
    valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}}
{{- end }}
resources: {{- include "espalier.resources" (dict "root" .root "of" $training.resources "on" .gpu) | nindent 2 }}
volumeMounts:
  - {name: config, mountPath: /etc/espalier-training, readOnly: true}
  - {name: tmp, mountPath: /tmp}
  - {name: data, mountPath: /data}
  # a folder for each job: a retry of the same job finds its run and goes on
  - {name: runs, mountPath: /runs, subPathExpr: $(JOB_NAME)}
{{- end -}}
