-- The service's state. Every row is a JSON document with a version that grows with each change, and the columns that it
-- is found by. Times are microseconds since 1970-01-01T00:00:00Z; names end in _key where they are in lower case, for
-- looking up without regard to case.

CREATE TABLE settings (
    id      TEXT PRIMARY KEY NOT NULL,
    version INTEGER NOT NULL,
    doc     TEXT NOT NULL
) STRICT;

CREATE TABLE principals (
    id       TEXT PRIMARY KEY NOT NULL,
    version  INTEGER NOT NULL,
    doc      TEXT NOT NULL,
    app_id   TEXT NOT NULL UNIQUE,
    name_key TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE role_assignments (
    id        TEXT PRIMARY KEY NOT NULL,
    version   INTEGER NOT NULL,
    doc       TEXT NOT NULL,
    principal TEXT NOT NULL REFERENCES principals (id) ON DELETE CASCADE
) STRICT;
CREATE INDEX role_assignments_by_principal ON role_assignments (principal);

CREATE TABLE signing_keys (
    id         TEXT PRIMARY KEY NOT NULL,
    version    INTEGER NOT NULL,
    doc        TEXT NOT NULL,
    created_us INTEGER NOT NULL
) STRICT;

CREATE TABLE resource_groups (
    id       TEXT PRIMARY KEY NOT NULL,
    version  INTEGER NOT NULL,
    doc      TEXT NOT NULL,
    name_key TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE vaults (
    id         TEXT PRIMARY KEY NOT NULL,
    version    INTEGER NOT NULL,
    doc        TEXT NOT NULL,
    group_key  TEXT NOT NULL,
    name_key   TEXT NOT NULL,
    -- 1 for one that was deleted and can still be brought back.
    deleted    INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX vaults_by_name ON vaults (group_key, name_key) WHERE deleted = 0;

CREATE TABLE policies (
    id       TEXT PRIMARY KEY NOT NULL,
    version  INTEGER NOT NULL,
    doc      TEXT NOT NULL,
    vault    TEXT NOT NULL REFERENCES vaults (id) ON DELETE CASCADE,
    name_key TEXT NOT NULL,
    UNIQUE (vault, name_key)
) STRICT;

CREATE TABLE machines (
    id        TEXT PRIMARY KEY NOT NULL,
    version   INTEGER NOT NULL,
    doc       TEXT NOT NULL,
    host      TEXT NOT NULL,
    -- The hypervisor's id of it.
    host_uuid TEXT NOT NULL,
    group_key TEXT NOT NULL,
    name_key  TEXT NOT NULL,
    -- 1 for one that is no longer there.
    gone      INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX machines_by_name ON machines (group_key, name_key) WHERE gone = 0;
CREATE INDEX machines_by_host ON machines (host, host_uuid);

CREATE TABLE items (
    id       TEXT PRIMARY KEY NOT NULL,
    version  INTEGER NOT NULL,
    doc      TEXT NOT NULL,
    vault    TEXT NOT NULL REFERENCES vaults (id) ON DELETE CASCADE,
    machine  TEXT NOT NULL,
    policy   TEXT,
    state    TEXT NOT NULL,
    name_key TEXT NOT NULL,
    UNIQUE (vault, name_key)
) STRICT;
CREATE INDEX items_by_machine ON items (machine);
CREATE INDEX items_by_policy ON items (policy);

CREATE TABLE recovery_points (
    id       TEXT PRIMARY KEY NOT NULL,
    version  INTEGER NOT NULL,
    doc      TEXT NOT NULL,
    vault    TEXT NOT NULL REFERENCES vaults (id) ON DELETE CASCADE,
    item     TEXT NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    -- Azure's: a decimal number.
    name     TEXT NOT NULL,
    taken_us INTEGER NOT NULL,
    UNIQUE (item, name)
) STRICT;
CREATE INDEX recovery_points_by_item ON recovery_points (item, taken_us);
CREATE INDEX recovery_points_by_vault ON recovery_points (vault);

CREATE TABLE jobs (
    id         TEXT PRIMARY KEY NOT NULL,
    version    INTEGER NOT NULL,
    doc        TEXT NOT NULL,
    vault      TEXT NOT NULL REFERENCES vaults (id) ON DELETE CASCADE,
    item       TEXT,
    operation  TEXT NOT NULL,
    status     TEXT NOT NULL,
    -- 1 while it is neither over nor given up: queued, running or being cancelled.
    open       INTEGER NOT NULL,
    started_us INTEGER NOT NULL
) STRICT;
CREATE INDEX jobs_by_vault ON jobs (vault, started_us DESC, id);
CREATE INDEX jobs_by_status ON jobs (vault, status, started_us DESC, id);
CREATE INDEX jobs_by_operation ON jobs (vault, operation, started_us DESC, id);
CREATE INDEX jobs_by_item ON jobs (item, started_us DESC);
CREATE INDEX jobs_open ON jobs (started_us) WHERE open = 1;

CREATE TABLE operations (
    id         TEXT PRIMARY KEY NOT NULL,
    version    INTEGER NOT NULL,
    doc        TEXT NOT NULL,
    vault      TEXT,
    open       INTEGER NOT NULL,
    started_us INTEGER NOT NULL
) STRICT;
CREATE INDEX operations_by_time ON operations (started_us);
CREATE INDEX operations_open ON operations (started_us) WHERE open = 1;

CREATE TABLE audit (
    id      TEXT PRIMARY KEY NOT NULL,
    version INTEGER NOT NULL,
    doc     TEXT NOT NULL,
    at_us   INTEGER NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit (at_us);
