-- Times are microseconds since 1970-01-01T00:00:00Z; ids are hyphenated UUIDs in lower case.

CREATE TABLE vaults (
    id            TEXT PRIMARY KEY NOT NULL,
    location      TEXT NOT NULL,
    first_seen_us INTEGER NOT NULL,
    last_seen_us  INTEGER NOT NULL
) STRICT;

CREATE TABLE recovery_points (
    vault_id           TEXT NOT NULL REFERENCES vaults (id) ON DELETE CASCADE,
    id                 TEXT NOT NULL,
    item               TEXT NOT NULL,
    kind               TEXT NOT NULL,
    -- What the item is a backup of, where that has an identity of its own: a machine's UUID.
    source_id          TEXT,
    parent_id          TEXT,
    taken_at_us        INTEGER NOT NULL,
    committed_at_us    INTEGER NOT NULL,
    consistency        TEXT NOT NULL,
    consistency_reason TEXT NOT NULL,
    -- A JSON list of {"name", "size_bytes"}.
    disks              TEXT NOT NULL,
    read_bytes         INTEGER NOT NULL,
    new_bytes          INTEGER NOT NULL,
    stored_bytes       INTEGER NOT NULL,
    warnings           INTEGER NOT NULL,
    PRIMARY KEY (vault_id, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX recovery_points_by_item ON recovery_points (kind, item, taken_at_us);
