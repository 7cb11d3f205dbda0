-- Items, jobs and policies say what they are about: until here all were about machines.
ALTER TABLE jobs ADD COLUMN datasource TEXT NOT NULL DEFAULT 'machine';

UPDATE jobs SET doc = json_set(doc, '$.datasource', 'machine');
UPDATE items SET doc = json_set(doc, '$.datasource', 'machine');
UPDATE policies SET doc = json_set(doc, '$.datasource', 'machine');
