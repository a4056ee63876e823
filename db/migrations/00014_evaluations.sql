-- Data sets and evaluations of /v1. They belong to tenants, as prompts do.

-- +goose Up
CREATE TABLE forgewire.datasets (
    tenant     text        NOT NULL COLLATE "C" CHECK (tenant ~ '^[!-~]{1,128}$'),
    id         text        NOT NULL COLLATE "C",
    name       text        NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 200),
    variables  text[],     -- of each case, sorted; NULL until the first one is there
    cases      bigint      NOT NULL DEFAULT 0, -- numbered from 1; they are only ever added to
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, id),
    CONSTRAINT datasets_name UNIQUE (tenant, name)
);

CREATE TABLE forgewire.dataset_cases (
    tenant     text   NOT NULL COLLATE "C",
    dataset_id text   NOT NULL COLLATE "C",
    n          bigint NOT NULL,
    variables  jsonb  NOT NULL, -- name: text
    expected   text,
    PRIMARY KEY (tenant, dataset_id, n),
    FOREIGN KEY (tenant, dataset_id) REFERENCES forgewire.datasets ON DELETE CASCADE
);

CREATE TABLE forgewire.evaluations (
    tenant         text        NOT NULL COLLATE "C" CHECK (tenant ~ '^[!-~]{1,128}$'),
    id             text        NOT NULL COLLATE "C",
    prompt_id      text        NOT NULL COLLATE "C",
    prompt_version int         NOT NULL,
    dataset_id     text        NOT NULL COLLATE "C",
    model          text        NOT NULL,
    parameters     jsonb       NOT NULL, -- of the request to the model
    scoring        jsonb       NOT NULL,
    key_id         text        NOT NULL, -- as whom the model is asked; '' is the server's own key
    status         text        NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    error          text        NOT NULL DEFAULT '', -- a code: why it failed, or what it waits for
    cases          bigint      NOT NULL, -- the data set had when it was made
    done           bigint      NOT NULL DEFAULT 0, -- the cases 1 to done have their results, no other has
    passed         bigint      NOT NULL DEFAULT 0,
    errors         bigint      NOT NULL DEFAULT 0,
    score          float8      NOT NULL DEFAULT 0, -- the sum
    created_at     timestamptz NOT NULL DEFAULT now(),
    started_at     timestamptz,
    finished_at    timestamptz,
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, prompt_id, prompt_version) REFERENCES forgewire.prompt_versions,
    FOREIGN KEY (tenant, dataset_id) REFERENCES forgewire.datasets
);
CREATE INDEX evaluations_prompt ON forgewire.evaluations (tenant, prompt_id, prompt_version);
CREATE INDEX evaluations_dataset ON forgewire.evaluations (tenant, dataset_id);

CREATE TABLE forgewire.evaluation_results (
    tenant        text    NOT NULL COLLATE "C",
    evaluation_id text    NOT NULL COLLATE "C",
    n             bigint  NOT NULL, -- of the case
    score         float8  NOT NULL, -- 0 to 1
    passed        boolean NOT NULL,
    output        text    NOT NULL,
    error         text    NOT NULL, -- a code, '' for none
    cache         text    NOT NULL, -- what the cache had to do with it
    duration_ms   float8  NOT NULL,
    PRIMARY KEY (tenant, evaluation_id, n),
    FOREIGN KEY (tenant, evaluation_id) REFERENCES forgewire.evaluations ON DELETE CASCADE
);

SELECT forgewire.protect(kind) FROM unnest(ARRAY['forgewire.datasets', 'forgewire.dataset_cases', 'forgewire.evaluations',
    'forgewire.evaluation_results']::regclass[]) AS kind;
SELECT forgewire.make_tenant_role();

-- +goose Down
DROP TABLE forgewire.evaluation_results, forgewire.evaluations, forgewire.dataset_cases, forgewire.datasets;
