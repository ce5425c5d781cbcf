<?php return array(
    'root' => array(
        'name' => 'switchboard/client',
        'pretty_version' => 'dev-w-hold2',
        'version' => 'dev-w-hold2',
        'reference' => '9b425059a111ae1f2205f71c15dc3cf34665664a',
        'type' => 'library',
        'install_path' => __DIR__ . '/../../',
        'aliases' => array(),
        'dev' => true,
    ),
    'versions' => array(
        'switchboard/client' => array(
            'pretty_version' => 'dev-w-hold2',
            'version' => 'dev-w-hold2',
            'reference' => '9b425059a111ae1f2205f71c15dc3cf34665664a',
            'type' => 'library',
            'install_path' => __DIR__ . '/../../',
            'aliases' => array(),
            'dev_requirement' => false,
        ),
    ),
);
