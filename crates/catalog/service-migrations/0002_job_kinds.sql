-- A job's row names its kind: which part of the service does it. Until here that followed from the operation and the request.
-- A job that is over when it is written (protection that was configured, say) has none.
ALTER TABLE jobs ADD COLUMN kind TEXT NOT NULL DEFAULT '';

UPDATE jobs SET kind = CASE
    WHEN operation = 'Backup' THEN 'backup'
    WHEN operation = 'Restore' AND json_extract(doc, '$.request.instant') = 1 THEN 'instant_restore'
    WHEN operation = 'Restore' THEN 'restore'
    WHEN operation = 'Drill' THEN 'drill'
    ELSE ''
END;

UPDATE jobs SET doc = json_set(doc, '$.kind', kind);

CREATE INDEX jobs_kind ON jobs (kind, started_us);
